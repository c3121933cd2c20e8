"""What the bytes of single packets say, for decoders that believe a packet is a picture and a key frame a new start.

A container says so too, but it repeats what some program told it. These functions read the few bytes in front of the
compressed pictures (ITU-T H.264 and H.265, the bitstream guides of VP8 and VP9); they decode nothing.
"""

Bytes = bytes | memoryview
_SLICE, _IDR, _SPS, _HEVC_SPS = 1, 5, 7, 33  # kinds of NAL units
_HEVC_STARTS = range(16, 22)
_WITH_CHROMA = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)  # profiles of H.264


def shows_one_picture(codec: str, packet: memoryview, extradata: bytes) -> bool:
    """Whether a packet is well formed, as far as can be seen from outside, and holds a picture that is shown."""
    match codec:
        case "h264":
            return any(kind in (_SLICE, _IDR) for kind, _ in split_units(codec, packet, extradata))
        case "hevc":
            return any(kind < 32 for kind, _ in split_units(codec, packet, extradata))
        case "vp8":
            return _is_shown_in_vp8(packet)
        case "vp9":
            return sum(map(_is_shown_in_vp9, _split_superframe(packet))) == 1
    return codec == "av1"  # its packets are temporal units, which show one picture by definition


def starts_anew(codec: str, packet: memoryview, extradata: bytes) -> bool:
    """Whether all that is shown from a key frame on can be decoded from there on, with the settings of the header.

    `extradata` is the file's header of the codec. In H.264 a key frame may also be a place from which a decoder
    recovers some frames later; only an IDR picture counts here. Those of VP8, VP9 and AV1 forget all that was before.
    """
    if codec not in ("h264", "hevc"):
        return True
    starts, settings = ({_IDR}, _SPS) if codec == "h264" else (_HEVC_STARTS, _HEVC_SPS)
    units = split_units(codec, packet, extradata)
    same = all(bytes(unit).rstrip(b"\0") in extradata for kind, unit in units if kind == settings)
    return same and any(kind in starts for kind, _ in units)


def holds_whole_frames(codec: str, extradata: bytes) -> bool:
    """Whether no picture can be a field, every other line of a frame; True of a codec that has no fields."""
    if codec != "h264":
        return True
    if extradata[:1] == b"\1":
        units = [unit for unit in _split_settings(memoryview(extradata)) if unit]
    else:
        units = _split_at_start_codes(extradata)
    settings = [unit for unit in units if unit[0] & 31 == _SPS]
    try:
        return bool(settings) and all(map(_allows_frames_only, settings))
    except ValueError:  # the header ends too early
        return False


def split_units(codec: str, packet: Bytes, extradata: bytes) -> list[tuple[int, Bytes]]:
    """Return the NAL units of a packet of H.264 or HEVC, as (kind, unit); none if one of them cannot be right.

    They are behind their lengths (as in MP4, where `extradata` starts with 1) or behind start codes (as in transport
    streams).
    """
    if extradata[:1] == b"\1":
        place = 4 if codec == "h264" else 21
        units = _split_behind_lengths(packet, (extradata[place] & 3) + 1) if len(extradata) > place else []
    else:
        units = _split_at_start_codes(packet)
    if any(unit[0] & 128 for unit in units):
        return []
    return [(unit[0] & 31 if codec == "h264" else unit[0] >> 1 & 63, unit) for unit in units]


def _split_behind_lengths(packet: Bytes, size: int) -> list[Bytes]:
    units, at = [], 0
    while at < len(packet):
        length = int.from_bytes(packet[at : at + size], "big")
        at += size + length
        if not length or at > len(packet):
            return []
        units.append(packet[at - length : at])
    return units


def _split_at_start_codes(packet: Bytes) -> list[Bytes]:
    return [unit for unit in bytes(packet).split(b"\0\0\1")[1:] if unit]


def _split_settings(header: memoryview) -> list[Bytes]:
    """Return the sequence parameter sets in the header of an MP4 file (`avcC`)."""
    units, at = [], 6
    for _ in range(header[5] & 31 if len(header) > 5 else 0):
        length = int.from_bytes(header[at : at + 2], "big")
        units.append(header[at + 2 : at + 2 + length])
        at += 2 + length
    return units


def _allows_frames_only(settings: Bytes) -> bool:
    """Read `frame_mbs_only_flag` of a sequence parameter set of H.264."""
    bits = _Bits(_unescape(settings)[4:])
    bits.read_number()
    chroma = 1
    if settings[1] in _WITH_CHROMA:
        chroma = bits.read_number()
        bits.read(int(chroma == 3))
        bits.read_number()
        bits.read_number()
        bits.read(1)
        if bits.read(1):
            for matrix in range(12 if chroma == 3 else 8):
                bits.skip_matrix(16 if matrix < 6 else 64)
    bits.read_number()
    order = bits.read_number()
    if order == 0:
        bits.read_number()
    elif order == 1:
        bits.read(1)
        bits.read_number()
        bits.read_number()
        for _ in range(min(bits.read_number(), 255)):
            bits.read_number()
    bits.read_number()
    bits.read(1)
    bits.read_number()
    bits.read_number()
    return bool(bits.read(1))


class _Bits:
    """Bits read from the front."""

    def __init__(self, content: bytes) -> None:
        self.rest = "".join(f"{byte:08b}" for byte in content[:2048])

    def read(self, count: int) -> int:
        """Read `count` bits as a number."""
        if len(self.rest) < count:
            raise ValueError("the header ends too early")
        taken, self.rest = self.rest[:count], self.rest[count:]
        return int(taken or "0", 2)

    def read_number(self) -> int:
        """Read an unsigned Exp-Golomb code."""
        zeros = len(self.rest) - len(self.rest.lstrip("0"))
        self.read(zeros)
        return self.read(zeros + 1) - 1

    def skip_matrix(self, size: int) -> None:
        """Skip a scaling matrix of `size` values, of which those behind a 0 are not written."""
        if not self.read(1):
            return
        value = following = 8
        for _ in range(size):
            if following:
                code = self.read_number()
                following = (value + (code + 1) // 2 * (1 if code % 2 else -1)) % 256
            value = following or value


def _unescape(unit: Bytes) -> bytes:
    """Remove the bytes that keep start codes out of a unit."""
    return bytes(unit).replace(b"\0\0\3", b"\0\0")


def _split_superframe(packet: memoryview) -> list[Bytes]:
    """Split a packet of VP9 into its frames, by the index at its end if it has one."""
    marker = packet[-1]
    frames, size = (marker & 7) + 1, (marker >> 3 & 3) + 1
    start = len(packet) - 2 - size * frames
    if marker >> 5 != 0b110 or start < 0 or packet[start] != marker:
        return [packet]
    parts, at = [], 0
    for number in range(frames):
        place = start + 1 + size * number
        length = int.from_bytes(packet[place : place + size], "little")
        parts.append(packet[at : at + length])
        at += length
    return parts


def _is_shown_in_vp8(packet: memoryview) -> bool:
    tag = int.from_bytes(packet[:3], "little")
    is_key, version, shown, first_part = not tag & 1, tag >> 1 & 7, tag >> 4 & 1, tag >> 5
    return version < 4 and bool(shown) and first_part + (10 if is_key else 3) <= len(packet)


def _is_shown_in_vp9(frame: Bytes) -> bool:
    if not len(frame) or frame[0] >> 6 != 0b10:
        return False
    bits = frame[0] << (1 if frame[0] >> 4 & 3 == 3 else 0)  # profile 3 has a bit more
    return bool(bits >> 3 & 1 or bits >> 1 & 1)  # a frame that was decoded before is shown again, or this one
