"""Reading logs from their end, whatever a site wrote into them."""

from pathlib import Path

from tenantry.control.logs import TAIL_BYTES_MAX, tail


def test_the_last_lines_are_read_across_blocks(tmp_path: Path) -> None:
    log = tmp_path / "blog.log"
    log.write_bytes(b"".join(b"%06d\n" % number for number in range(30_000)))
    text, end, _ = tail(log, 20_000)
    assert text.splitlines() == [b"%06d" % number for number in range(10_000, 30_000)]
    assert end == 7 * 30_000


def test_a_line_without_an_end_is_not_read_into_memory(tmp_path: Path) -> None:
    log = tmp_path / "blog.log"
    with log.open("wb") as file:
        file.truncate(10 * TAIL_BYTES_MAX)
    text, end, _ = tail(log, 2)
    assert (len(text), end) == (TAIL_BYTES_MAX, 10 * TAIL_BYTES_MAX)
