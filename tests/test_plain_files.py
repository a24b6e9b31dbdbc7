"""Files of lines written anew while others append: no line is lost, and none of a forgotten person is left."""

from __future__ import annotations

import gzip
import io
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from schemas.errors import ConfigError
from serving.file_sink import FileSink
from transforms import plain_files
from transforms.plain_files import Rewritten, pending_path, rewrite_lines

_WRITER = """
import sys, time
from serving.file_sink import FileSink
sink, name, end, number = FileSink(sys.argv[1]), sys.argv[2].encode(), time.monotonic() + float(sys.argv[3]), 0
while time.monotonic() < end:
    sink.write([b"%s-%d-%s" % (name, number + i, b"odd" if (number + i) % 2 else b"even") for i in range(3)])
    number += 3
print(number)
"""


def without_odd(lines: list[bytes]) -> list[bytes | None]:
    return [None if line.endswith(b"odd") else line for line in lines]


def test_lines_go_change_and_stay(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"a\n\nb\nc")
    path.chmod(0o640)
    done = rewrite_lines(str(path), lambda lines: [{b"a": None, b"b": b"B"}.get(line, line) for line in lines])
    assert done == Rewritten(3, 6, 1, 1)
    assert path.read_bytes() == b"\nB\nc"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_with_nothing_to_change_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"a\nb")
    before = path.stat()
    assert rewrite_lines(str(path), lambda lines: list(lines)) == Rewritten(2, 3, 0, 0)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ConfigError, match="must be there"):
        rewrite_lines(str(tmp_path / "nowhere"), without_odd)


def test_packed_files_stay_packed(tmp_path: Path) -> None:
    path = tmp_path / "f.gz"
    path.write_bytes(gzip.compress(b"1-odd\n2-even\n"))
    assert rewrite_lines(str(path), without_odd).removed == 1
    assert gzip.decompress(path.read_bytes()) == b"2-even\n"


def test_what_a_killed_run_left_behind_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"1-odd\n2-even\n")
    pending_path(str(path)).write_bytes(b"somebody's data, much longer than what is to come")
    rewrite_lines(str(path), without_odd)
    assert path.read_bytes() == b"2-even\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_sink_follows_the_file_that_its_path_stands_for(tmp_path: Path) -> None:
    path = tmp_path / "f"
    sink = FileSink(str(path))
    sink.write([b"1-odd"])
    rewrite_lines(str(path), without_odd)
    sink.write([b"2-even"])
    path.unlink()
    sink.write([b"3-even"])
    assert path.read_bytes() == b"3-even\n"


class Torn(io.BytesIO):
    """A file to which the end of a line is written while its lines are read."""

    looks = 0

    def readlines(self, hint: int | None = -1, /) -> list[bytes]:
        self.looks += 1
        if self.looks > 1:
            return super().readlines(hint)
        self.seek(0, os.SEEK_END)
        return [b"1-even\n", b"2-", b"odd\n"]


def test_a_line_that_is_read_in_two_pieces_is_read_again_as_one() -> None:
    file, out = Torn(b"1-even\n2-odd\n3-even\n"), io.BytesIO()
    file.truncate(len(b"1-even\n2-odd\n"))
    plain_files._copy(file, out, without_odd, [0, 0, 0], whole=True)
    assert out.getvalue() == b"1-even\n"


@pytest.mark.alone
def test_no_line_is_lost_while_two_append(tmp_path: Path) -> None:
    # writers  ▶─1─2─3─4─5─6─7─8─▶     a rewriter takes every odd line out, again and again
    path = tmp_path / "f"
    told = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, str(path), name, "2.0"], stdout=subprocess.PIPE, text=True, env=told)
        for name in ("a", "b")
    ]
    rounds = 0
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            rounds += rewrite_lines(str(path), without_odd).removed > 0
        time.sleep(0.002)
    counts = {name: int(writer.communicate()[0]) for name, writer in zip("ab", writers, strict=True)}
    rewrite_lines(str(path), without_odd)
    assert rounds > 5, "the file was hardly ever written anew: this test shows nothing"
    lines = [line for line in path.read_text().splitlines() if line]  # two at once may put an empty one between them
    for name, number in counts.items():
        mine = [line for line in lines if line.startswith(name)]
        assert mine == [f"{name}-{i}-even" for i in range(number) if i % 2 == 0]
    assert len(lines) == sum((number + 1) // 2 for number in counts.values())
