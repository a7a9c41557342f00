import numpy as np
import pytest
from kitti_scenes import make_scenes

from stl_core import types
from stl_core.data import scan_file
from stl_core.data.sources import kitti, kitti_calib

LINE = 'Car 0.00 1 -1.57 10.00 20.00 110.50 80.00 1.50 1.60 4.00 1.00 2.00 20.00 -1.50'
DONT_CARE = 'DontCare -1 -1 -10 1 2 3 4 -1 -1 -1 -1000 -1000 -1000 -10'
RAW = """calib_time: 09-Jan-2012 13:57:47
corner_dist: 9.950000e-02
P_rect_02: 7.215377e+02 0 6.095593e+02 4.485728e+01 0 7.215377e+02 172.854 0.2163791 0 0 1 0.00274
"""
P2 = 'P2: 721.5 0 609.5 44.8 0 721.5 172.8 0.2 0 0 1 0.0027\n'


def write(path, text):
    path.write_text(text)
    return path


def test_label_centres_move_from_the_bottom_to_the_middle(tmp_path):
    labels = kitti.read_labels(write(tmp_path / 'a.txt', f'{LINE}\n{DONT_CARE}\n'))
    assert list(labels.name) == ['Car', 'DontCare']
    np.testing.assert_allclose(labels.center_m[0], [1.0, 2.0 - 0.75, 20.0])
    np.testing.assert_allclose(labels.size_hwl_m[0], [1.5, 1.6, 4.0])
    assert labels.occluded[0] == 1
    assert labels.score[0] == 1.0


def test_to_objects_keeps_the_listed_classes(tmp_path):
    text = '\n'.join([LINE, DONT_CARE, LINE.replace('Car', 'Cyclist'), LINE.replace('Car', 'Van')])
    objects = kitti.read_labels(write(tmp_path / 'a.txt', text)).to_objects(('Cyclist', 'Car'))
    assert list(objects.class_id) == [1, 0]
    assert (objects.depth_sigma_m == 0).all()


def test_results_read_back_as_written(tmp_path):
    labels = kitti.read_labels(write(tmp_path / 'a.txt', f'{LINE} 0.75\n'))
    again = kitti.read_labels(write(tmp_path / 'b.txt', kitti.format_results(labels)))
    for name in types.Labels.FIELD_SHAPES:
        np.testing.assert_array_equal(getattr(labels, name), getattr(again, name))


@pytest.mark.parametrize('start', ['\ufeff', '\ufeff\n'])
def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path, start):
    """Notepad writes the mark; the class of the first object of every file was lost with it."""
    path = tmp_path / 'a.txt'
    path.write_text(f'{start}{LINE}\n', 'utf-8')
    assert kitti.read_labels(path).name.tolist() == ['Car']
    path.write_text(f'{start}{P2}', 'utf-8')
    assert kitti.read_calib(path).P2[0, 0] == 721.5
    path.write_text('\ufeff000001\n', 'utf-8')
    assert kitti.read_split(path) == ('000001',)
    path.write_text(LINE, 'utf-16')
    with pytest.raises(kitti.DataError, match='not a text file'):
        kitti.read_labels(path)


@pytest.mark.parametrize('name', ['"Car"', "'Car'", 'Car'])
def test_quotes_are_no_part_of_a_name(tmp_path, name):
    path = write(tmp_path / 'a.txt', LINE.replace('Car', name))
    assert kitti.read_labels(path).name.tolist() == ['Car']


def test_source_images_locate_their_labels_and_know_their_size(tmp_path):
    scenes = make_scenes(tmp_path / 'scenes', frames=1)
    label = write(scenes / 'label_2/000000.txt', f'\n{LINE}\n\n{DONT_CARE}\n')
    source = kitti.KittiSource(kitti.folders_below(scenes, labelled=True))
    (image,) = source.read('000000').images
    assert image.label_location(0) == f'{label}:2'
    assert image.label_location(1) == f'{label}:4'
    assert image.P_location == str(scenes / 'calib/000000.txt')
    assert image.size_px.read().tolist() == [320, 96]


@pytest.mark.parametrize(
    ('listed', 'message'),
    [
        ('000000.png', r'000000\.png\.png: listed but missing \(an id is a name .*: 000000\)'),
        ('training/image_2/000000.png', r'an id is a name without folder and suffix: 000000\)'),
        ('training/label_2/000000.txt', r'an id is a name without folder and suffix: 000000\)'),
        ('000000 1', r'1\.png: listed but missing .*a VOC list has a second column'),
        ('000000\n-1', r'-1\.png: listed but missing .*a VOC list has a second column'),
        ('img_0', r'img_0\.png: listed but missing \(ids are names such as 000000\)'),
    ],
)
def test_ids_of_other_lists_are_explained(tmp_path, listed, message):
    scenes = make_scenes(tmp_path / 'scenes', frames=1)
    split = write(tmp_path / 'train.txt', f'{listed}\n')
    with pytest.raises(kitti.DataError, match=message):
        kitti.KittiSource(kitti.folders_below(scenes, labelled=True), kitti.read_split(split))


def test_read_results_requires_a_score(tmp_path):
    path = write(tmp_path / 'a.txt', f'{LINE} 0.75\n\n')
    assert kitti.read_results(path).score.tolist() == [0.75]
    write(path, f'{LINE} 0.75\n{LINE}\n')
    with pytest.raises(kitti.DataError, match=r'a\.txt:2: expected 16 columns .* score, got 15'):
        kitti.read_results(path)


def test_an_empty_split_raises_data_error(tmp_path):
    assert kitti.read_split(write(tmp_path / 'val.txt', '01\n03\n')) == ('01', '03')
    with pytest.raises(kitti.DataError, match=r'val\.txt: no frame id in this file'):
        kitti.read_split(write(tmp_path / 'val.txt', '\n'))


def test_an_empty_label_file_has_no_objects(tmp_path):
    assert len(kitti.read_labels(write(tmp_path / 'a.txt', '\n'))) == 0


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('Car 1 2 3', r'a.txt:1: expected 15 columns, or 16 with a score, got 4'),
        (f'{LINE}\n{LINE.replace("20.00", "x")}', r'a.txt:2: expected numbers'),
        (LINE.replace('4.00', 'nan'), r'a.txt:1: expected finite'),
    ],
)
def test_a_malformed_label_raises_data_error_with_file_and_line(tmp_path, text, message):
    with pytest.raises(kitti.DataError, match=message):
        kitti.read_labels(write(tmp_path / 'a.txt', text))


def test_read_calib_accepts_object_and_tracking_keys(tmp_path):
    rect = ' '.join(map(str, np.diag([1, -1, -1]).ravel()))
    velo = ' '.join(map(str, np.hstack([np.eye(3), [[1], [2], [3]]]).ravel()))
    first = write(tmp_path / 'a.txt', f'{P2}R0_rect: {rect}\nTr_velo_to_cam: {velo}\n\n')
    second = write(tmp_path / 'b.txt', f'{P2}R_rect {rect}\nTr_velo_cam {velo}\n')
    for path in (first, second):
        calib = kitti_calib.read_calib(path)
        assert calib.P2[2, 3] == 0.0027
        np.testing.assert_allclose(calib.cam_T_velo[:3, 3], [1, -2, -3])


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('P1: 1 2 3\n', 'expected a line "P2:" with 12 numbers'),
        ('P2: 1 2 3\n', 'expected a line "P2:" with 12 numbers'),
        ('P2: a b\n', 'a.txt:1: P2: expected numbers'),
        (P2.replace('721.5', '0'), 'a.txt: P2 has focal lengths 0 and 0; expected pixels'),
        ('P2: 1 0 0 0 0 1 0 0 0 0 1 0', 'a.txt: P2 has focal lengths 1 and 1'),
        ('P0: 721.5 0 9 0 0 721.5 9 0 0 0 0 0', 'a.txt: P0 has the last row 0 0 0 0'),
        (P2 + P2.replace('721.5', '700'), 'a.txt:2: P2 is given twice, with other numbers'),
        (RAW, 'this is calib_cam_to_cam.txt of the raw data: its P_rect_02 is P2'),
        ('R: 1 0 0 0 1 0 0 0 1\nT: 1 2 3\n', 'a pose of the raw data, without the projection'),
        (':\n: :\n', 'expected a line "P2:" with 12 numbers'),
        (P2 + 'R0_rect: 1 2\n', 'expected 9 numbers in R0_rect'),
    ],
)
def test_a_malformed_calib_raises_data_error_with_the_expected_content(tmp_path, text, message):
    with pytest.raises(kitti.DataError, match=message):
        kitti_calib.read_calib(write(tmp_path / 'a.txt', text))


def test_lines_of_text_are_no_part_of_a_calibration(tmp_path):
    """Exporters add dates, names and comments; the same matrix twice is harmless."""
    text = (
        f'calib_time: 09-Jan-2012 13:57:47\n# made by a tool\n{P2}camera front left\n{P2}P9: x\n'
    )
    assert kitti_calib.read_calib(write(tmp_path / 'a.txt', text)).P2[0, 0] == 721.5


def test_missing_and_binary_files_raise_data_error(tmp_path):
    with pytest.raises(kitti.DataError, match=r'none.txt: no such file .* expected a KITTI calib'):
        kitti_calib.read_calib(tmp_path / 'none.txt')
    (tmp_path / 'a.txt').write_bytes(b'\xff\xfe\x00')
    with pytest.raises(kitti.DataError, match='not a text file'):
        kitti.read_labels(tmp_path / 'a.txt')
    (tmp_path / 'a.png').write_bytes(b'not a picture')
    with pytest.raises(kitti.DataError, match='not a readable PNG or JPEG'):
        kitti.read_image(tmp_path / 'a.png')
    (tmp_path / 'a.bin').write_bytes(bytes(range(5)))
    with pytest.raises(kitti.DataError, match='16-byte points'):
        scan_file.read_velodyne(tmp_path / 'a.bin')


def test_velodyne_points_lie_in_the_labelled_cars(mono3d_data):
    """LiDAR, calib and labels agree: points fill the labelled box of a near car."""
    training = mono3d_data / 'training'
    calib = kitti_calib.read_calib(training / 'calib/000010.txt')
    labels = kitti.read_labels(training / 'label_2/000010.txt')
    car = labels[(labels.name == 'Car') & (labels.truncated < 0.1) & (labels.occluded == 0)][0]
    cloud = scan_file.read_velodyne(training / 'velodyne/000010.bin')[:, :3].astype(np.float64)
    points = cloud @ calib.cam_T_velo[:3, :3].T + calib.cam_T_velo[:3, 3]
    away = points - car.center_m[0]
    cos, sin = np.cos(car.rotation_y[0]), np.sin(car.rotation_y[0])
    along, across = cos * away[:, 0] - sin * away[:, 2], sin * away[:, 0] + cos * away[:, 2]
    h, w, length = car.size_hwl_m[0]
    inside = (abs(along) < length / 2) & (abs(across) < w / 2) & (abs(away[:, 1]) < h / 2)
    assert inside.sum() > 200


def test_list_kitti_frames_lists_frames_and_names_missing_files(tmp_path):
    for folder in ('image_2', 'calib', 'label_2'):
        (tmp_path / folder).mkdir()
    source = kitti.KittiFolders(*(str(tmp_path / f) for f in ('image_2', 'calib', 'label_2')))
    with pytest.raises(kitti.DataError, match=r'no \.png or \.jpg'):
        kitti.list_kitti_frames(source)
    (tmp_path / 'image_2/000001.png').touch()
    with pytest.raises(kitti.DataError, match=r'calib/000001.txt: no such file'):
        kitti.list_kitti_frames(source)
    (tmp_path / 'calib/000001.txt').touch()
    with pytest.raises(kitti.DataError, match=r'label_2/000001.txt: no such file'):
        kitti.list_kitti_frames(source)
    (tmp_path / 'label_2/000001.txt').touch()
    assert [frame.id for frame in kitti.list_kitti_frames(source)] == ['000001']
    with pytest.raises(kitti.DataError, match=r'000002.png: listed but missing'):
        kitti.list_kitti_frames(source, ('000002',))


def test_images_of_any_suffix_are_listed_and_two_of_one_id_are_refused(tmp_path):
    root = make_scenes(tmp_path / 'scenes', frames=3)
    for frame_id, suffix in (('000000', 'JPEG'), ('000001', 'JPG')):
        (root / f'image_2/{frame_id}.png').rename(root / f'image_2/{frame_id}.{suffix}')
    folders = kitti.folders_below(root, labelled=True)
    assert [each.id for each in kitti.list_kitti_frames(folders)] == ['000000', '000001', '000002']
    (root / 'image_2/000002.jpg').touch()
    with pytest.raises(kitti.DataError, match=r'000002.png: one image of two .* as 000002.jpg'):
        kitti.list_kitti_frames(folders)
