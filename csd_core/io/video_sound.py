"""Sound of a video, copied as packets into another, with times that a container takes."""

from bisect import bisect_right
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream

from csd_core.errors import expect
from csd_core.io.images import decoding
from csd_core.io.video_decoder import open_container, sound_streams
from csd_core.io.video_times import begin_again, following, rising, usual_step
from csd_core.io.videos import Video


class CopiedSound:
    """Copies packets of sound as they are, never decoded, shifted to the start of the selection.

    Sound is cut only where the selection of frames cuts the video.

    notes: what a user should know of it.

    Raises:
        UserError: it cannot be read, or has no times.
    """

    def __init__(self, container: OutputContainer, video: Video) -> None:
        self._container, self._video = container, video
        tracks = _tracks(video)
        self.notes = _notes(video, tracks)
        self._times = {index: iter(track.times) for index, track in tracks.items()}
        self._source = open_container(video.path)
        try:
            self._streams = {s.index: self._added(s) for s in sound_streams(self._source)}
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

    def _kept(self) -> Generator[tuple[Fraction, Packet]]:
        """(time in the output, packet) of those in the selection."""
        video = self._video
        with decoding(video.path, "video"):
            for packet in self._source.demux(*sound_streams(self._source)):
                ticks = next(self._times[packet.stream.index]) if packet.size else None
                if ticks is None:
                    continue
                at = ticks * packet.time_base
                if video.sound_from is not None and at < video.sound_from:
                    continue
                if video.sound_to is not None and at >= video.sound_to:
                    continue
                length = (packet.duration or 0) * packet.time_base
                if self._earliest is not None and at + length <= self._earliest:
                    continue
                packet.pts = packet.dts = ticks - round(video.start / packet.time_base)
                packet.stream = self._streams[packet.stream.index]
                yield at - video.start, packet


@dataclass
class _Track:
    """When the packets of a track are heard: in ticks, strictly increasing; None for what is left out."""

    times: list[int | None]
    moved: int
    left_out: int
    parts: int


def _tracks(video: Video) -> dict[int, _Track]:
    """Of each track of sound by its index."""
    with decoding(video.path, "video"), open_container(video.path) as source:
        streams = sound_streams(source)
        found: dict[int, list[tuple[int | None, int]]] = {stream.index: [] for stream in streams}
        for packet in source.demux(*streams):
            if packet.size:
                stamp = packet.dts if packet.pts is None else packet.pts
                found[packet.stream.index].append((stamp, packet.duration or 0))
        units = {stream.index: stream.time_base or Fraction(1) for stream in streams}
    return {
        index: _track(video, packets, [round(shift / units[index]) for shift in video.shifts])
        for index, packets in found.items()
    }


def _track(video: Video, packets: Sequence[tuple[int | None, int]], shifts: list[int]) -> _Track:
    stamps = [stamp for stamp, _ in packets]
    known = not stamps or any(stamp is not None for stamp in stamps)
    got = "none; leave it out with --no-sound"
    expect(known, str(video.path), "sound that states when it is heard", got)
    parts, step = begin_again(stamps), usual_step(stamps)
    if len(parts) + 1 == len(shifts):  # of the same files that were joined: it keeps to the pictures
        part = [shifts[bisect_right(parts, k)] for k in range(len(stamps))]
        placed = [None if s is None else s + shift for s, shift in zip(stamps, part, strict=True)]
    else:
        placed, _ = following(stamps, parts, step)
    risen, wrong = rising(placed, step)
    times: list[int | None] = [time // 1 for time in risen]
    left_out = 0
    for k in wrong:
        room = (risen[k + 1] if k + 1 < len(risen) else risen[k] + step) - risen[k]
        if room < 1 or 2 * room < packets[k][1]:  # there is no place for it
            times[k], left_out = None, left_out + 1
    return _Track(times, len(wrong) - left_out, left_out, len(parts))


def _notes(video: Video, tracks: dict[int, _Track]) -> list[str]:
    notes = []
    if any(track.parts + 1 != len(video.shifts) for track in tracks.values()):
        notes.append("times of the sound begin again where those of the pictures do not: check that they fit")
    moved, left_out = (
        sum(getattr(track, name) for track in tracks.values()) for name in ("moved", "left_out")
    )
    if moved or left_out:
        what = f"{moved} of its packets are moved between their neighbours, {left_out} are left out"
        notes.append(f"times of the sound are missing, repeat or run backward: {what}")
    return notes
