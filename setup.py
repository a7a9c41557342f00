"""Install mono3d_ros and stl_core, by colcon (ament_python) or by pip."""

from glob import glob

from setuptools import find_packages, setup

NAME = 'mono3d_ros'
ROS = [
    'ros-rclpy[fastrtps]; platform_machine == "x86_64"',
    'ros-std-msgs; platform_machine == "x86_64"',
    'ros-sensor-msgs; platform_machine == "x86_64"',
    'ros-visualization-msgs; platform_machine == "x86_64"',
    'ros-diagnostic-msgs; platform_machine == "x86_64"',
    'ros-std-srvs; platform_machine == "x86_64"',
]
#: Packages of nuscenes-devkit, whose own requirements forbid NumPy 2: it is installed beside them
#: by `pip install --no-deps nuscenes-devkit==1.2.0`.
NUSCENES = ['pyquaternion', 'cachetools', 'scikit-learn', 'tqdm', 'pillow', 'matplotlib']
# parameterized: the tests of nuscenes-devkit, whose mock submission ours judges
TEST = ['pytest>=7', 'hypothesis', 'shapely>=2', 'tensorboard', 'parameterized']

setup(
    name=NAME,
    version='0.1.0',
    description='Monocular 3D object detection for ROS 2: 3D bounding boxes from camera images',
    license='Apache-2.0',
    maintainer='mono3d_ros maintainers',
    maintainer_email='mono3d_ros@example.org',
    packages=find_packages(include=[NAME, f'{NAME}.*', 'stl_core', 'stl_core.*']),
    package_data={
        'stl_core': ['py.typed', 'data/synthetic/scene/*.json'],
        NAME: ['py.typed', 'models/*'],
    },
    python_requires='>=3.10',
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{NAME}']),
        (f'share/{NAME}', ['package.xml']),
        (f'share/{NAME}/launch', glob('launch/*.launch.py')),
        (f'share/{NAME}/docs', glob('docs/*.md')),
        (f'share/{NAME}/config', glob('config/*.yaml')),
        (f'share/{NAME}/config/train', glob('config/train/*.yaml') + glob('config/train/*.txt')),
        (f'share/{NAME}/config/study', glob('config/study/*.yaml')),
        (f'share/{NAME}/rviz', glob('rviz/*.rviz')),
        (f'share/{NAME}/foxglove', glob('foxglove/*.json')),
    ],
    install_requires=[
        'setuptools',
        'torch>=2.4',
        'torchvision',
        'timm>=1.0',
        'numpy>=1.21',
        'opencv-python-headless',
        'rosbags>=0.10',
        'lz4',  # as rosbags: chunks of MCAP files
        'backports.zstd; python_version < "3.14"',  # as rosbags
        'safetensors',
        'pyyaml',
        'rich',
        'matplotlib',
        'scipy',
    ],
    extras_require={
        'ros': ROS,
        'train': ['tensorboard'],
        'nuscenes': NUSCENES,
        'rerun': ['rerun-sdk>=0.23'],
        'test': TEST,  # colcon test runs pytest because of this extra
        'dev': [*TEST, 'ruff', 'mypy', 'types-PyYAML'],
    },
    zip_safe=False,
    entry_points={
        'console_scripts': [
            'stl = stl_core.cli.main:main',
            'detector = mono3d_ros.node.__main__:main',
            'doctor = mono3d_ros.doctor.__main__:main',
            'evaluate_bag = mono3d_ros.bag_evaluation.evaluate_bag:main',
            'kitti_to_bag = mono3d_ros.bags.kitti_to_bag:main',
            'bag_to_kitti = mono3d_ros.bags.bag_to_kitti:main',
            'synthesize_bag = mono3d_ros.bags.synthesize_bag:main',
        ],
    },
)
