"""Sound of a video, copied packet by packet into the output, never decoded.

It is cut only where the selection of frames cuts the video.
"""

from fractions import Fraction
from typing import Any

from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream

from csd_core.io.images import decoding
from csd_core.io.video_sources import open_container
from csd_core.io.videos import Video


class CopiedSound:
    """Copies packets of sound as they are, shifted to the start of the selection."""

    def __init__(self, container: OutputContainer, video: Video) -> None:
        self._container, self._video = container, video
        self._source = open_container(video.path)
        try:
            self._streams = {s.index: self._added(s) for s in self._source.streams.audio}
        except BaseException:
            self._source.close()
            raise
        # these have no times below 0: sound from before the first frame would delay the video
        self._earliest = video.start if container.format.name in ("matroska", "webm") else None
        self._packets = self._kept()
        self._next: tuple[Fraction, Packet] | None = None

    def close(self) -> None:
        """Close the source."""
        self._packets.close()
        self._source.close()

    def mux_to(self, time: Fraction | None) -> None:
        """Copy what is heard until then; None: all of it."""
        waiting = self._next or next(self._packets, None)
        while waiting and (time is None or waiting[0] <= time):
            self._container.mux(waiting[1])
            waiting = next(self._packets, None)
        self._next = waiting

    def _added(self, stream: Any) -> Stream:
        added = self._container.add_stream_from_template(stream)
        added.metadata.update({k: v for k, v in stream.metadata.items() if k in ("language", "title")})
        added.disposition = stream.disposition
        return added

    def _kept(self) -> Any:
        """(time in the output, packet) of those in the selection."""
        video = self._video
        with decoding(video.path, "video"):
            for packet in self._source.demux(*self._source.streams.audio):
                stamp = packet.dts if packet.pts is None else packet.pts
                if stamp is None or not packet.size:
                    continue
                at = stamp * packet.time_base
                if video.sound_from is not None and at < video.sound_from:
                    continue
                if video.sound_to is not None and at >= video.sound_to:
                    continue
                length = (packet.duration or 0) * packet.time_base
                if self._earliest is not None and at + length <= self._earliest:
                    continue
                yield at - video.start, self._moved(packet)

    def _moved(self, packet: Packet) -> Packet:
        shift = round(self._video.start / packet.time_base)
        packet.pts = None if packet.pts is None else packet.pts - shift
        packet.dts = None if packet.dts is None else packet.dts - shift
        packet.stream = self._streams[packet.stream.index]
        return packet
