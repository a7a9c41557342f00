import time
from types import SimpleNamespace

import numpy as np
import pytest

from mono3d_ros.camera_frame import UNKNOWN_POSE
from mono3d_ros.messages.rectification import passthrough_image
from mono3d_ros.monitoring.counters import Counters
from mono3d_ros.monitoring.throttled_log import IssueLog
from mono3d_ros.perception.detection_filter import DetectionFilter
from mono3d_ros.perception.image_buffer import ImageBuffer
from mono3d_ros.perception.pipeline import Pipeline
from mono3d_ros.perception.worker import STAGES, Worker, WorkerCallbacks
from stl_core.types import Objects3D

S = 1_000_000_000
CAMERAS = ('front', 'left', 'right')


class Fake:
    spec = SimpleNamespace(classes=('Car',))

    def __init__(self):
        self.batches = []

    def __call__(self, images, Ps):
        self.batches.append(len(images))
        if any(image[0, 0, 0] == 255 for image in images):
            raise KeyError('red')
        return [Objects3D.empty() for _ in images]


class Bench:
    """A worker with everything around it."""

    def __init__(self, max_age_s=0.0, now_ns=10 * S, publish=None, strange=''):
        self.counters = {camera: Counters() for camera in CAMERAS}
        self.latest = ImageBuffer(self.counters, time.monotonic_ns, wait_ns=0)
        self.results, self.said, self.timings = [], [], []
        self.predictor = Fake()
        outside = WorkerCallbacks(
            now_ns=lambda: now_ns,
            camera_pose=lambda frame: UNKNOWN_POSE,
            check_lens=lambda frame: strange,
            publish=publish or (lambda result, frame: self.results.append(result)),
            report_timings=lambda camera, timings_ms: self.timings.append(timings_ms),
            report_issue=IssueLog(self.counters, self.said.append, self.said.append).add,
        )
        selection = DetectionFilter((0.5,), max_age_s=max_age_s)
        pipeline = Pipeline(self.predictor, selection, time.perf_counter)
        doors = dict.fromkeys(CAMERAS, passthrough_image)
        self.worker = Worker(self.latest, pipeline, doors, outside)

    def send(self, camera='front', **fields):
        """Send an image and wait until it is done with."""
        before = self.done()
        self.put(camera, **fields)
        self.until(lambda: self.done() > before)

    def put(self, camera, stamp_ns=10 * S, red=0, info=True, focal=5.0, encoding='rgb8'):
        sec, nanosec = divmod(stamp_ns, S)
        header = SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec), frame_id='f')
        if info:
            self.latest.put_info(camera, stamp_ns, camera_info(focal, header))
        data = np.full((2, 3, 3), red, np.uint8).tobytes()
        message = SimpleNamespace(
            header=header, height=2, width=3, encoding=encoding, is_bigendian=0, step=9, data=data
        )
        self.latest.put_image(camera, stamp_ns, message)

    def until(self, condition):
        end = time.monotonic() + 5.0
        while not condition() and time.monotonic() < end:
            time.sleep(0.001)
        assert condition()

    def done(self):
        return len(self.timings) + sum(self.trouble().values())

    def trouble(self, camera='front'):
        counts = self.counters[camera].snapshot().counts
        return {what: n for what, n in counts.items() if what not in ('received', 'infos')}


def camera_info(focal, header):
    return SimpleNamespace(
        header=header,
        width=3,
        height=2,
        distortion_model='',
        d=[],
        k=[focal, 0, 1, 0, focal, 1, 0, 0, 1],
        r=[0] * 9,
        p=[focal, 0, 1, 0, 0, focal, 1, 0, 0, 0, 1, 0],
        binning_x=0,
        binning_y=0,
        roi=SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0),
    )


@pytest.fixture
def make():
    benches = []

    def build(**options):
        benches.append(Bench(**options))
        return benches[-1]

    yield build
    for bench in benches:
        bench.worker.stop()


def test_a_frame_is_answered_and_timed(make):
    bench = make()
    bench.send(stamp_ns=9 * S)
    assert [result.stamp_ns for result in bench.results] == [9 * S]
    (timings_ms,) = bench.timings
    assert set(timings_ms) == set(STAGES)
    assert timings_ms['end_to_end'] == 1000.0
    parts = sum(timings_ms[stage] for stage in STAGES if stage not in ('total', 'end_to_end'))
    assert parts <= timings_ms['total'] < parts + 50.0


@pytest.mark.parametrize(
    ('trouble', 'what', 'text'),
    [
        ({'red': 255}, 'bad', "front: bad: KeyError: 'red'"),
        ({'encoding': 'rgb9'}, 'bad', "front: bad: ValueError: encoding 'rgb9'"),
        ({'focal': 0.0}, 'uncalibrated', 'front: uncalibrated: K[0] of camera_info is 0'),
        ({'info': False}, 'no_camera_info', 'front: no camera info: an image, but'),
    ],
)
def test_trouble_is_counted_told_once_and_survived(make, trouble, what, text):
    bench = make()
    for _ in range(3):
        bench.send(**trouble)
    assert bench.trouble() == {what: 3}
    (said,) = bench.said
    assert said.startswith(text)
    bench.send()
    assert len(bench.results) == 1


def test_old_frames_are_told_with_the_remedy(make):
    bench = make(max_age_s=0.5)
    bench.send(stamp_ns=7 * S)
    assert bench.trouble() == {'too_old': 1}
    assert '3.0 s old' in bench.said[0]
    assert 'use_sim_time' in bench.said[0]


@pytest.mark.parametrize('now_ns', [0, 9 * S, 10 * S + 3601 * S])
def test_by_another_clock_than_the_stamps_there_is_no_end_to_end(make, now_ns):
    bench = make(now_ns=now_ns)
    bench.send(stamp_ns=10 * S)
    assert 'end_to_end' not in bench.timings[0]


def test_a_strange_lens_is_told_and_answered_all_the_same(make):
    bench = make(strange='twice as long')
    bench.put('front')
    bench.until(lambda: bench.results)
    assert bench.trouble() == {'unfamiliar_lens': 1}
    assert bench.said == ['front: unfamiliar lens: twice as long']


def gathered(bench, reds):
    """Send an image a camera so that the worker finds them all at once."""
    with bench.latest._condition:
        for camera, red in zip(CAMERAS, reds, strict=True):
            bench.put(camera, red=red)


def test_images_that_are_due_together_go_in_one_batch(make):
    bench = make()
    gathered(bench, (0, 0, 0))
    bench.until(lambda: len(bench.results) == 3)
    assert bench.predictor.batches == [3]
    assert {result.camera for result in bench.results} == set(CAMERAS)


def test_one_camera_does_not_silence_the_others(make):
    bench = make()
    gathered(bench, (0, 255, 0))
    bench.until(lambda: bench.trouble('left') and len(bench.results) == 2)
    assert {result.camera for result in bench.results} == {'front', 'right'}
    assert bench.trouble('left') == {'bad': 1}
    assert bench.trouble('front') == {}


def test_an_answer_that_cannot_be_sent_is_not_computed_again(make):
    def publish(result, frame):
        if result.camera == 'left':
            raise RuntimeError('no way out')

    bench = make(publish=publish)
    gathered(bench, (0, 0, 0))
    bench.until(lambda: bench.trouble('left') and len(bench.timings) == 2)
    assert bench.predictor.batches == [3]
    assert bench.said == ['left: bad: RuntimeError: no way out']


def test_stop_ends_the_thread(make):
    bench = make()
    start = time.monotonic()
    bench.worker.stop()
    assert not bench.worker._thread.is_alive()
    assert time.monotonic() - start < 2.0
