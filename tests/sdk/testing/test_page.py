"""The files that docs/extending/testing.md shows pass as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def test_the_files_on_the_page_pass(repository: Path, tmp_path: Path) -> None:
    page = (repository / "docs" / "extending" / "testing.md").read_text(encoding="utf-8")
    files = re.findall(r'```python title="([\w.]+)"\n(.*?)```', page, re.DOTALL)
    assert [name for name, _ in files] == ["robot.py", "test_robot.py", "test_my_camera.py"]
    for name, text in files:
        (tmp_path / name).write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout
