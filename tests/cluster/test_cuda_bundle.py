"""tests/cuda_bundle: what it packs runs elsewhere by itself, and a damaged part is told."""
import os
import pathlib

import pytest
from conftest import ROOT, TANDEM, run

BIN = pathlib.Path(TANDEM).parent


@pytest.mark.skipif(not (BIN / "cuda_gpu_test").exists(), reason="the build has no CUDA: nvcc was not found")
def test_the_bundle_runs_by_itself(tmp_path):
    packed = run([ROOT / "tests/cuda_bundle", tmp_path / "out"], timeout=600)
    assert packed.returncode == 0, packed.stderr
    parts = sorted((tmp_path / "out").glob("part-*"))
    assert len(parts) > 1 and all(part.stat().st_size <= 50_000_000 for part in parts), parts
    # Without a network, a home, or libraries but the system's loader finds of its own.
    bare = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "TMPDIR": str(tmp_path)}
    ran = run(["unshare", "-n", tmp_path / "out/run", tmp_path / "there"] if os.geteuid() == 0
              else [tmp_path / "out/run", tmp_path / "there"], timeout=1800, env=bare, cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "0 failed" in ran.stdout, ran.stdout
    if "skipped all GPU tests" in ran.stdout:
        assert "no NVIDIA driver is here" in ran.stdout or "no CUDA device is here" in ran.stdout, ran.stdout
    program = tmp_path / "there/bin/tandem"
    used = run(["ldd", tmp_path / "there/bin/tandem.real"], env=bare | {"LD_LIBRARY_PATH": str(tmp_path / "there/libraries")})
    outside = [line for line in used.stdout.splitlines() if "=> /" in line and str(tmp_path) not in line]
    assert all(any(f"/{name}.so" in line for name in ("libc", "libm", "libdl", "librt", "libpthread", "libresolv", "libutil"))
               for line in outside), outside
    logits = run([program, "generate", tmp_path / "there/golden/llama.gguf", "--tokens", "1,2,3", "--max-tokens", 2, "--json"],
                 env=bare)
    assert logits.returncode == 0, logits.stderr
    with open(parts[-1], "r+b") as part:
        part.seek(1000)
        part.write(b"damage")
    damaged = run([tmp_path / "out/run", tmp_path / "again"], env=bare)
    assert damaged.returncode == 1 and "damaged" in damaged.stdout, damaged.stdout
