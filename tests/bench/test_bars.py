"""What the benches know of the machine."""

from pathlib import Path

import pytest

from bench.bars import has_bf16


@pytest.mark.parametrize(
    ("flags", "is_native"),
    [
        ("fpu avx2 avx512f avx512_bf16", True),
        ("fpu avx512f amx_bf16 amx_tile", True),
        ("Features\t: fp asimd bf16", True),
        ("fpu avx2 avx512f avx512_vnni", False),
    ],
)
def test_bfloat16_is_native_where_the_cpu_says_so(tmp_path: Path, flags: str, is_native: bool) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    assert has_bf16(cpuinfo) == is_native
    assert not has_bf16(tmp_path / "missing")
