"""Decodes a file, which must be exactly one frame, stream or member of a codec:
what comes after the first is lost on some readers, without a word.

usage: decode.py none|gzip|bzip2|xz|snappy|zstd|lz4 FROM TO
"""

import bz2
import lzma
import sys
import zlib


def decoder(codec):
    """An object that knows where the first frame ends."""
    if codec == "gzip":
        return zlib.decompressobj(wbits=31)
    if codec == "bzip2":
        return bz2.BZ2Decompressor()
    if codec == "xz":
        return lzma.LZMADecompressor(lzma.FORMAT_XZ)
    if codec == "zstd":
        import zstandard

        return zstandard.ZstdDecompressor().decompressobj()
    if codec == "lz4":
        import lz4.frame

        return lz4.frame.LZ4FrameDecompressor()
    sys.exit(f"no such codec: {codec}")


codec, source, target = sys.argv[1:]
with open(source, "rb") as file:
    data = file.read()
if codec == "snappy":
    import snappy

    # The framing format has no end: a stream is whole if nothing is left over.
    stream = snappy.StreamDecompressor()
    data = stream.decompress(data)
    stream.flush()
elif codec != "none":
    one = decoder(codec)
    data = one.decompress(data)
    if not one.eof:
        sys.exit(f"{source} is cut short")
    if one.unused_data:
        sys.exit(f"{source} goes on for {len(one.unused_data)} bytes after its first frame")
with open(target, "wb") as file:
    file.write(data)
