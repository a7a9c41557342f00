"""
Registry of the data set formats by name: SOURCES.

To add a format, write one module and add one line to SOURCES.
"""

from __future__ import annotations

from stl_core.data.frame_source import FrameSource, SourceConfig, SourceFormat
from stl_core.data.sources import kitti, nuscenes

SOURCES: dict[str, SourceFormat] = {
    'kitti': SourceFormat(kitti.KittiFolders, kitti.KittiSource, kitti.folders_below),
    'nuscenes': SourceFormat(
        nuscenes.NuscenesFolder, nuscenes.NuscenesSource, nuscenes.database_below
    ),
}
DEFAULT_FORMAT = 'kitti'


def open_source(config: SourceConfig, ids: tuple[str, ...] = ()) -> FrameSource:
    """
    Open the data set of a configuration.

    :param config: an instance of the `config` of a format in SOURCES.
    :param ids: ids of the samples to keep; empty keeps all.
    :raises DataError: for missing files, naming one.
    """
    for source_format in SOURCES.values():
        if isinstance(config, source_format.config):
            return source_format.open_source(config, ids)
    raise TypeError(f'{config!r} is not a configuration of {", ".join(SOURCES)}')
