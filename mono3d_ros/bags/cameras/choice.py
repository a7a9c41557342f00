"""
Choose the cameras of a bag: for each camera_info one image topic, as a person would.

The first message of every image topic shows what the topic carries. Colour comes before grey;
depth and other measurements are never pictures. Names are a weak hint: they decide between topics
that are equal otherwise, and exclude a topic only if its pixels say the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mono3d_ros.bags.bag_io import BagError, BagReader
from mono3d_ros.bags.cameras.image_topics import (
    ImageKind,
    ImageTopic,
    InfoTopic,
    describe_image,
    describe_info,
    fits,
)
from mono3d_ros.bags.drive_query import (
    CAMERA_INFO_TYPE,
    COMPRESSED_IMAGE_TYPE,
    IMAGE_TYPE,
    CameraTopics,
    DriveQuery,
)

_LABELS_TYPE = 'std_msgs/msg/String'
#: Number of topics that an error lists.
MAX_LISTED = 20


@dataclass(frozen=True)
class CameraChoice:
    """
    The cameras that are read from a bag.

    :param cameras: at least one, in order of their names.
    :param unused: image topics of no chosen camera, with the reason.
    """

    cameras: tuple[CameraTopics, ...]
    unused: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Return one line for each camera, and one for the topics of no camera."""
        lines = [f'camera {each.name}: {each.reason}' for each in self.cameras]
        return lines + ([f'other image topics: {_list(self.unused)}'] if self.unused else [])


def find_cameras(reader: BagReader, query: DriveQuery) -> CameraChoice:
    """
    Choose the cameras of an open bag whose messages can be decoded.

    :param reader: the open bag; the first message of each image and camera_info topic is read.
    :param query: which cameras to select.
    :return: the cameras.
    :raises BagError: if no camera matches; the message lists image and camera_info topics, and
        topics that cannot be decoded.
    """
    topics = reader.decodable_topics
    kinds = (IMAGE_TYPE, COMPRESSED_IMAGE_TYPE, CAMERA_INFO_TYPE)
    first = reader.first_messages([topic for topic, kind in topics.items() if kind in kinds])
    images = [
        describe_image(topic, kind, first.get(topic))
        for topic, kind in topics.items()
        if kind in kinds[:2]
    ]
    infos = [
        describe_info(topic, first.get(topic))
        for topic, kind in topics.items()
        if kind == CAMERA_INFO_TYPE
    ]
    try:
        return choose_cameras(topics, images, infos, query, reader.path)
    except BagError as err:
        skipped = [f'{topic} ({why})' for topic, why in reader.skipped.items()]
        if not skipped:
            raise
        more = f' and {len(skipped) - 5} more' if len(skipped) > 5 else ''
        raise BagError(f'{err}; not readable: {", ".join(skipped[:5])}{more}') from err


def choose_cameras(
    topics: Mapping[str, str],
    images: Sequence[ImageTopic],
    infos: Sequence[InfoTopic],
    query: DriveQuery,
    bag: str | Path,
) -> CameraChoice:
    """
    Choose an image topic and its camera_info for each camera, or for the requested one.

    :param topics: topic -> message type, all of the bag.
    :param images: the image topics.
    :param infos: the camera_info topics.
    :param query: which cameras to select.
    :param bag: name of the bag, for error messages.
    :return: the cameras.
    :raises BagError: if no camera matches.
    """
    search = _Search(topics, images, infos, query, bag)
    if query.image or query.camera in {each.topic for each in images}:
        return search.requested_image(query.image or query.camera)
    return search.all_cameras()


@dataclass(frozen=True)
class _Search:
    """The topics of a bag and the request; its methods choose."""

    topics: Mapping[str, str]
    images: Sequence[ImageTopic]
    infos: Sequence[InfoTopic]
    query: DriveQuery
    bag: str | Path

    def requested_image(self, topic: str) -> CameraChoice:
        """Choose an image topic by its name."""
        image = next((each for each in self.images if each.topic == topic), None)
        if image is None:
            if kind := self.topics.get(topic):
                raise BagError(
                    f'{self.bag}: {topic} is of type {kind}; expected {IMAGE_TYPE} or '
                    f'{COMPRESSED_IMAGE_TYPE}, such as {self._list_images()}'
                )
            raise BagError(
                f'{self.bag}: no image topic {topic}; the bag has {self._list_images()}'
            )
        info, why = self._requested_info() or self._info_by_image[topic]
        if not info:
            raise BagError(
                f'{self.bag}: no camera_info belongs to {topic} ({why}); choose one of '
                f'{self._list_infos()} with --camera-info'
            )
        return CameraChoice((self._camera(image, info, 'requested', why, ()),))

    def all_cameras(self) -> CameraChoice:
        """Choose the best image topic for each camera_info, and of these the requested camera."""
        groups = self._groups()
        best = {
            info: min(pictures, key=self._rank)
            for info, group in groups.items()
            if (pictures := [each for each in group if each.is_picture])
        }
        if not self.query.camera:
            best = _without_hinted_grey(best)
        cameras = []
        for group_info, image in best.items():
            info, why = self._requested_info() or self._info_by_image[image.topic]
            others = [each for each in groups[group_info] if each is not image]
            cameras.append(self._camera(image, info, image.kind.name.lower(), why, others))
        chosen = self._select(_with_unique_names(cameras))
        used = {each.image for each in chosen}
        listed = {
            topic.topic
            for group in groups.values()
            if any(topic.topic in used for topic in group)
            for topic in group
        }
        unused = [self._unused(each) for each in self.images if each.topic not in listed]
        return CameraChoice(chosen, tuple(unused))

    def _groups(self) -> dict[str, list[ImageTopic]]:
        """
        Return camera_info topic -> its image topics, pictures or not.

        A requested camera_info without images gets those to which no camera_info belongs.
        """
        groups: dict[str, list[ImageTopic]] = {}
        for image in self.images:
            groups.setdefault(self._info_by_image[image.topic][0], []).append(image)
        without = groups.pop('', [])
        if (requested := self._requested_info()) and not self.query.camera:
            return {requested[0]: groups.get(requested[0], without)}
        return groups

    def _select(self, cameras: Sequence[CameraTopics]) -> tuple[CameraTopics, ...]:
        """Return the requested camera, or all of them."""
        query = self.query
        if not cameras:
            types = (IMAGE_TYPE, COMPRESSED_IMAGE_TYPE, CAMERA_INFO_TYPE)
            others = [f'{topic} ({k})' for topic, k in self.topics.items() if k not in types]
            raise BagError(
                f'{self.bag}: no image topic with a camera_info; images of the bag: '
                f'{self._list_images()}; camera_infos: {self._list_infos()}; other topics: '
                f'{_list(others)}; --image and --camera-info choose'
            )
        chosen = sorted(cameras, key=lambda each: each.name)
        if query.camera:
            chosen = [each for each in chosen if each.name == query.camera.strip('/')]
        has = ', '.join(f'{each.name} ({each.image})' for each in cameras)
        if not chosen:
            raise BagError(f'{self.bag}: no camera {query.camera}; the bag has {has}')
        return tuple(chosen)

    def _requested_info(self) -> tuple[str, str] | None:
        """Return the requested camera_info; None without a request."""
        info = self.query.info
        if not info:
            return None
        if self.topics.get(info) != CAMERA_INFO_TYPE:
            kind = f'is of type {self.topics[info]}' if info in self.topics else 'is not in it'
            raise BagError(
                f'{self.bag}: --camera-info {info} {kind}; the camera_infos are '
                f'{self._list_infos()}'
            )
        return info, 'requested'

    @cached_property
    def _info_by_image(self) -> dict[str, tuple[str, str]]:
        """Image topic -> its camera_info and why, see _info_of."""
        return {each.topic: self._info_of(each) for each in self.images}

    def _info_of(self, image: ImageTopic) -> tuple[str, str]:
        """Return the camera_info topic of an image and why; ('', why) if none belongs to it."""
        names = {each.topic for each in self.infos}
        for name, why in (
            (f'{image.namespace}/camera_info', 'in the same namespace'),
            (f'{image.base}/camera_info', 'below the image topic'),
        ):
            if name in names:
                return name, why
        fitting = [each for each in self.infos if fits(image, each)]
        if len(fitting) == 1:
            return fitting[0].topic, 'the only one of this frame_id and size'
        if not fitting:
            return '', 'none is in its namespace or has its frame_id and size'
        has = ', '.join(each.topic for each in fitting)
        return '', f'{has} have its frame_id and size'

    def _rank(self, image: ImageTopic) -> tuple[Any, ...]:
        """Return a sort key: the best image topic of a camera first."""
        camera = CameraTopics('', image.topic, '', '')
        return (
            image.kind >= ImageKind.UNREADABLE,
            bool(image.hint),
            image.has_few_values,
            image.kind,
            self.query.topic_order(camera),
            image.type != IMAGE_TYPE,
            image.topic,
        )

    def _camera(
        self, image: ImageTopic, info: str, why: str, info_why: str, others: Collection[ImageTopic]
    ) -> CameraTopics:
        """Build the topics of a camera with the reason for the choice."""
        labels = f'{image.namespace}/ground_truth/labels'
        rest = f'; not {_list(map(str, others))}' if others else '; its only image topic'
        rest = '' if why == 'requested' else rest
        return CameraTopics(
            name=image.namespace.strip('/') or 'camera',
            image=image.topic,
            info=info,
            labels=labels if self.topics.get(labels) == _LABELS_TYPE else '',
            reason=(
                f'images {image.topic} ({image.type}, {image.encoding.strip() or "no message"}, '
                f'{why}), camera_info {info} ({info_why}){rest}'
            ),
        )

    def _unused(self, image: ImageTopic) -> str:
        """Describe an image topic of no chosen camera."""
        info, why = self._info_by_image[image.topic]
        return str(image) if info else f'{image} without camera_info: {why}'

    def _list_images(self) -> str:
        return _list(map(str, self.images))

    def _list_infos(self) -> str:
        return _list(each.topic for each in self.infos)


def _list(items: Iterable[str]) -> str:
    """Return the first MAX_LISTED items, separated by commas, and the number of the others."""
    listed = list(items)
    more = f' and {len(listed) - MAX_LISTED} more' if len(listed) > MAX_LISTED else ''
    return (', '.join(listed[:MAX_LISTED]) or 'none') + more


def _without_hinted_grey(best: Mapping[str, ImageTopic]) -> dict[str, ImageTopic]:
    """Remove grey images whose names speak against pictures, if others remain."""
    kept = {
        info: each
        for info, each in best.items()
        if not each.hint or each.kind in (ImageKind.COLOR, ImageKind.MOSAIC)
    }
    return kept or dict(best)


def _with_unique_names(cameras: Iterable[CameraTopics]) -> list[CameraTopics]:
    """Name cameras that share a namespace by their image topics."""
    cameras = list(cameras)
    names = [each.name for each in cameras]
    return [
        replace(each, name=each.image.removesuffix('/compressed').strip('/'))
        if names.count(each.name) > 1
        else each
        for each in cameras
    ]
