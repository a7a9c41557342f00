"""Worker: timings, reported issues, batches, and shutdown of the thread."""

import struct
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from mono3d_ros.camera_frame import UNKNOWN_POSE
from mono3d_ros.messages.rectification import Rectifier
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
    spec, device = SimpleNamespace(classes=('Car',)), 'cpu'

    def __init__(self):
        self.batches = []

    def __call__(self, images, Ps):
        self.batches.append(len(images))
        if any(image[0, 0, 0] == 255 for image in images):
            raise KeyError('red')
        return [Objects3D.empty() for _ in images]


class Bench:
    """A worker with fake inputs and outputs."""

    def __init__(self, max_age_s=0.0, now_ns=10 * S, publish=None, lens_warning='', grace_ns=0):
        self.counters = {camera: Counters() for camera in CAMERAS}
        self.buffer = ImageBuffer(self.counters, time.monotonic_ns, wait_ns=0)
        self.results, self.log, self.timings = [], [], []
        self.predictor, self.wanted = Fake(), True
        callbacks = WorkerCallbacks(
            now_ns=lambda: now_ns,
            is_wanted=self.is_wanted,
            camera_pose=lambda frame: UNKNOWN_POSE,
            check_lens=lambda frame: lens_warning,
            publish=publish or (lambda result, frame: self.results.append(result)),
            report_timings=lambda camera, timings_ms: self.timings.append(timings_ms),
            report_issue=IssueLog(self.counters, self.log.append, self.log.append).add,
        )
        detection_filter = DetectionFilter((0.5,), max_age_s=max_age_s)
        pipeline = Pipeline(self.predictor, detection_filter, time.perf_counter)
        rectifiers = dict.fromkeys(CAMERAS, Rectifier('true'))
        self.worker = Worker(self.buffer, pipeline, rectifiers, callbacks, info_grace_ns=grace_ns)

    def is_wanted(self):
        if self.wanted is None:
            raise RuntimeError('publisher is invalid')
        return self.wanted

    def send(self, camera='front', **fields):
        """Send an image and wait until it is processed."""
        before = self.num_processed()
        self.put(camera, **fields)
        self.wait_until(lambda: self.num_processed() > before)

    def put(
        self,
        camera,
        stamp_ns=10 * S,
        red=0,
        info=True,
        focal=5.0,
        encoding='rgb8',
        file=None,
        data=None,
        frame_id='f',
    ):
        sec, nanosec = divmod(stamp_ns, S)
        header = SimpleNamespace(
            stamp=SimpleNamespace(sec=sec, nanosec=nanosec), frame_id=frame_id
        )
        if info:
            self.buffer.put_info(camera, stamp_ns, camera_info(focal, header))
        data = np.full((2, 3, 3), red, np.uint8).tobytes() if data is None else data
        message = SimpleNamespace(
            header=header,
            height=2,
            width=3,
            encoding=encoding,
            is_bigendian=0,
            step=len(data) // 2,
            data=data,
        )
        if file is not None:
            message = SimpleNamespace(header=header, format='jpeg', data=file)
        self.buffer.put_image(camera, stamp_ns, message)

    def wait_until(self, condition):
        end = time.monotonic() + 5.0
        while not condition() and time.monotonic() < end:
            time.sleep(0.001)
        assert condition()

    def num_processed(self):
        return len(self.timings) + sum(self.issue_counts().values())

    def issue_counts(self, camera='front'):
        counts = self.counters[camera].snapshot().counts
        return {kind: n for kind, n in counts.items() if kind not in ('received', 'infos')}


def jpeg(width, height):
    """Return a JPEG of 3x2 pixels whose header says another size."""
    file = cv2.imencode('.jpg', np.zeros((2, 3), np.uint8))[1].tobytes()
    at = file.index(b'\xff\xc0') + 5
    return file[:at] + struct.pack('>HH', height, width) + file[at + 4 :]


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


def test_frame_is_processed_and_timed(make):
    bench = make()
    bench.send(stamp_ns=9 * S)
    assert [result.stamp_ns for result in bench.results] == [9 * S]
    (timings_ms,) = bench.timings
    assert set(timings_ms) == set(STAGES)
    assert timings_ms['end_to_end'] == 1000.0
    parts = sum(timings_ms[stage] for stage in STAGES if stage not in ('total', 'end_to_end'))
    assert parts <= timings_ms['total'] < parts + 50.0


@pytest.mark.parametrize(
    ('image', 'kind', 'text'),
    [
        ({'red': 255}, 'bad', "front: bad: KeyError: 'red'"),
        ({'encoding': 'rgb9'}, 'bad', "front: bad: ValueError: encoding 'rgb9'"),
        ({'encoding': '16UC1'}, 'bad', 'front: bad: ValueError: encoding 16UC1 carries depth'),
        ({'file': b'no image'}, 'bad', "front: bad: ValueError: format 'jpeg': the file is not"),
        ({'file': jpeg(40000, 40000)}, 'bad', 'front: bad: ValueError: format'),
        ({'file': jpeg(3, 9)}, 'bad', 'front: bad: ValueError: image is 3x9 but camera_info'),
        ({'focal': 0.0}, 'uncalibrated', 'front: uncalibrated: K[0] of camera_info is 0'),
        ({'info': False}, 'no_camera_info', 'front: no camera info: image received, but'),
    ],
)
def test_issue_is_counted_and_logged_once_and_processing_continues(make, image, kind, text):
    bench = make()
    for _ in range(3):
        bench.send(**image)
    assert bench.issue_counts() == {kind: 3}
    (line,) = bench.log
    assert line.startswith(text)
    bench.send()
    assert len(bench.results) == 1


def test_log_of_old_frames_contains_the_remedy(make):
    bench = make(max_age_s=0.5)
    bench.send(stamp_ns=7 * S)
    assert bench.issue_counts() == {'too_old': 1}
    assert '3.0 s old' in bench.log[0]
    assert 'use_sim_time' in bench.log[0]


@pytest.mark.parametrize('now_ns', [0, 9 * S, 10 * S + 3601 * S])
def test_no_end_to_end_latency_without_the_clock_of_the_stamps(make, now_ns):
    bench = make(now_ns=now_ns)
    bench.send(stamp_ns=10 * S)
    assert 'end_to_end' not in bench.timings[0]


def test_image_of_an_unfamiliar_lens_is_reported_and_processed(make):
    bench = make(lens_warning='twice as long')
    bench.put('front')
    bench.wait_until(lambda: bench.results)
    assert bench.issue_counts() == {'unfamiliar_lens': 1}
    assert bench.log == ['front: unfamiliar lens: twice as long']


def send_together(bench, reds):
    """Send one image per camera so that the worker takes them all at once."""
    with bench.buffer._condition:
        for camera, red in zip(CAMERAS, reds, strict=True):
            bench.put(camera, red=red)


@pytest.mark.parametrize(
    ('image', 'text'),
    [
        ({'stamp_ns': 0}, 'its stamp is 0'),
        ({'stamp_ns': 22 * S}, 'its stamp is 12.0 s in the future'),
        ({'frame_id': ''}, 'its frame_id is empty'),
    ],
)
def test_image_with_a_faulty_header_is_processed_and_reported(make, image, text):
    bench = make()
    bench.send(**image)
    bench.wait_until(lambda: bench.results)
    assert bench.issue_counts() == {'odd_header': 1}
    assert text in bench.log[0]


def test_camera_info_that_is_a_little_late_is_no_fault(make):
    bench = make(grace_ns=3600 * S)
    bench.send(info=False)
    bench.send()
    bench.wait_until(lambda: bench.results)
    assert bench.issue_counts() == {'early': 1}
    assert bench.log == []


def test_network_rests_while_nobody_wants_results(make):
    bench = make()
    bench.wanted = False
    for _ in range(3):
        bench.send()
    assert (bench.predictor.batches, bench.results) == ([], [])
    assert (bench.issue_counts(), bench.log) == ({'unwanted': 3}, [])
    bench.wanted = True
    bench.send()
    bench.wait_until(lambda: bench.results)
    assert bench.predictor.batches == [1]


def test_faults_are_reported_while_the_network_rests(make):
    bench = make()
    bench.wanted = False
    bench.send(focal=0.0)
    bench.wait_until(lambda: 'uncalibrated' in bench.issue_counts())


def test_unknown_demand_does_not_end_the_thread(make):
    """The graph cannot be asked while ROS shuts down, for example."""
    bench = make()
    bench.wanted = None
    bench.put('front')
    bench.wait_until(lambda: bench.results)
    assert bench.issue_counts()['bad'] == 1
    bench.wanted = True
    bench.send()
    assert len(bench.results) == 2


def test_a_batch_of_several_cameras_is_wanted_or_not_as_a_whole(make):
    bench = make()
    bench.wanted = False
    send_together(bench, (0, 0, 0))
    bench.wait_until(lambda: all(bench.issue_counts(each) for each in CAMERAS))
    assert bench.predictor.batches == []


def test_images_that_are_due_together_are_processed_in_one_batch(make):
    bench = make()
    send_together(bench, (0, 0, 0))
    bench.wait_until(lambda: len(bench.results) == 3)
    assert bench.predictor.batches == [3]
    assert {result.camera for result in bench.results} == set(CAMERAS)


def test_failure_of_one_camera_does_not_affect_the_others(make):
    bench = make()
    send_together(bench, (0, 255, 0))
    bench.wait_until(lambda: bench.issue_counts('left') and len(bench.results) == 2)
    assert {result.camera for result in bench.results} == {'front', 'right'}
    assert bench.issue_counts('left') == {'bad': 1}
    assert bench.issue_counts('front') == {}


def test_result_that_cannot_be_published_is_not_computed_again(make):
    def publish(result, frame):
        if result.camera == 'left':
            raise RuntimeError('not connected')

    bench = make(publish=publish)
    send_together(bench, (0, 0, 0))
    bench.wait_until(lambda: bench.issue_counts('left') and len(bench.timings) == 2)
    assert bench.predictor.batches == [3]
    assert bench.log == ['left: bad: RuntimeError: not connected']


def test_stop_ends_the_thread(make):
    bench = make()
    start = time.monotonic()
    bench.worker.stop()
    assert not bench.worker._thread.is_alive()
    assert time.monotonic() - start < 2.0


def test_images_of_12_bits_are_scaled_with_one_note(make):
    bench = make()
    values = np.array([[0, 4095, 16], [160, 320, 640]], '<u2').tobytes()
    for stamp in (8, 9, 10):
        bench.put('front', stamp_ns=stamp * S, encoding='mono16', data=values)
        bench.wait_until(lambda stamp=stamp: len(bench.results) == stamp - 7)
    assert bench.issue_counts()['image_note'] == 1
    (line,) = bench.log
    assert line.startswith('front: image note: mono16 images of at most 12 bits')
