import time
from types import SimpleNamespace

import numpy as np
import pytest

from mono3d_ros.calibration import as_rectified
from mono3d_ros.pipeline import Limits, Pipeline
from mono3d_ros.stream import Counters, LatestFrames
from mono3d_ros.worker import Outside, Worker
from stl_core.types import Objects3D

S = 1_000_000_000


class Fake:
    spec = SimpleNamespace(classes=('Car',))

    def __call__(self, images, Ps):
        if images[0][0, 0, 0] == 255:
            raise KeyError('red')
        return [Objects3D.empty() for _ in images]


class Bench:
    """A worker with everything around it."""

    def __init__(self, max_age_s=0.0, now_ns=10 * S):
        self.counters = Counters()
        self.latest = LatestFrames(self.counters, time.monotonic_ns, info_wait_ns=0)
        self.results, self.complaints = [], []
        outside = Outside(lambda: now_ns, self.results.append, self.complaints.append)
        pipeline = Pipeline(Fake(), Limits((0.5,), max_age_s), time.perf_counter)
        self.worker = Worker(self.latest, pipeline, as_rectified, self.counters, outside)

    def send(self, stamp_ns=10 * S, red=0, info=True, focal=5.0, encoding='rgb8'):
        """Send an image and wait until it is done with."""
        sec, nanosec = divmod(stamp_ns, S)
        header = SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec), frame_id='f')
        before = self.done()
        if info:
            self.latest.put_info('front', stamp_ns, camera_info(focal, header))
        data = np.full((2, 3, 3), red, np.uint8).tobytes()
        message = SimpleNamespace(
            header=header, height=2, width=3, encoding=encoding, is_bigendian=0, step=9, data=data
        )
        self.latest.put_image('front', stamp_ns, message)
        end = time.monotonic() + 5.0
        while self.done() == before and time.monotonic() < end:
            time.sleep(0.001)
        assert self.done() == before + 1

    def done(self):
        counts = self.counters.snapshot().counts
        return sum(counts.values())


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
    time.sleep(0.01)  # timings are recorded after the answer
    latency = bench.counters.snapshot().latency_ms
    assert {'queue', 'decode', 'inference', 'publish', 'total', 'end to end'} == set(latency)
    assert latency['end to end'] == (1000.0, 1000.0)


@pytest.mark.parametrize(
    ('trouble', 'what', 'text'),
    [
        ({'red': 255}, 'bad', "bad: KeyError: 'red'"),
        ({'encoding': 'rgb9'}, 'bad', "bad: ValueError: encoding 'rgb9'"),
        ({'focal': 0.0}, 'uncalibrated', 'uncalibrated: K[0] of camera_info is 0'),
        ({'info': False}, 'no_camera_info', 'no camera info: an image, but'),
    ],
)
def test_trouble_is_counted_told_once_and_survived(make, trouble, what, text):
    bench = make()
    for _ in range(3):
        bench.send(**trouble)
    assert bench.counters.snapshot().counts == {what: 3}
    (complaint,) = bench.complaints
    assert complaint.startswith(text)
    bench.send()
    assert len(bench.results) == 1


def test_old_frames_are_told_with_the_remedy(make):
    bench = make(max_age_s=0.5)
    bench.send(stamp_ns=7 * S)
    assert bench.counters.snapshot().counts == {'too_old': 1}
    assert '3.0 s old' in bench.complaints[0]
    assert 'use_sim_time' in bench.complaints[0]


def test_without_a_clock_there_is_no_end_to_end(make):
    bench = make(now_ns=0)
    bench.send()
    time.sleep(0.01)
    assert 'end to end' not in bench.counters.snapshot().latency_ms


def test_stop_ends_the_thread(make):
    bench = make()
    start = time.monotonic()
    bench.worker.stop()
    assert not bench.worker._thread.is_alive()
    assert time.monotonic() - start < 2.0
