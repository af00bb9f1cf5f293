"""Locks: what is waited for is told, with its holder; Ctrl-C ends it; a killed process holds nothing."""

import platform
import re
import signal
import subprocess
import sys

import pytest
from other_user import as_other_user, read_only, shared_folder

import chxbench
from chxbench import UserError
from chxbench.benchmark.utils import files
from chxbench.benchmark.utils.files import hold_lock, is_locked, write_atomic

HOLD = """
import signal, sys, time
from pathlib import Path
from chxbench.benchmark.utils import files
files.PATIENCE = 0.2
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits that it is ignored
with files.hold_lock(Path(sys.argv[1]), "the records"):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def start(lock, seconds):
    command = [sys.executable, "-c", HOLD, str(lock), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def lock(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PATIENCE", 0.2)
    return tmp_path / "folder" / "work.lock"


@pytest.fixture
def holder(lock):
    """A process that holds the lock until it is killed."""
    with start(lock, 600) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_wait_is_told_with_the_holder_and_ctrl_c_ends_it(lock, holder):
    with start(lock, 0) as waiting:
        told = waiting.stderr.readline()
        waiting.send_signal(signal.SIGINT)
        assert waiting.wait() != 0
        assert "KeyboardInterrupt" in waiting.stderr.read()
    about = f"process {holder.pid} on {platform.node()} \\(since \\d{{4}}-\\d\\d-\\d\\d \\d\\d:\\d\\d:\\d\\d UTC\\)"
    assert re.fullmatch(f"waiting for the records: {about} is working on it \\(Ctrl-C stops waiting\\)\n", told)
    assert is_locked(lock)  # the wait took nothing away


def test_the_lock_of_a_killed_process_is_taken_over_by_one_that_waits(lock, holder):
    with start(lock, 0) as waiting:
        assert "waiting for the records" in waiting.stderr.readline()
        holder.kill()
        assert waiting.stdout.readline() == "held\n"
        assert waiting.wait() == 0


def test_what_a_killed_process_left_is_not_believed(lock, holder):
    holder.kill()
    holder.wait()
    assert files._holder_note(lock).exists()
    assert not is_locked(lock)
    with hold_lock(lock, "x", wait=False):
        assert f"process {files.os.getpid()} " in files.lock_holder(lock)
    assert [path.name for path in lock.parent.iterdir() if path != lock] == []


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe", None])
def test_a_holder_that_is_unknown_is_another_process(lock, holder, damage):
    note = files._holder_note(lock)
    note.unlink() if damage is None else note.write_bytes(damage)
    told = r"^another process is working on this run: wait for it or stop it$"
    with pytest.raises(UserError, match=told), hold_lock(lock, "this run", wait=False):
        pass


def test_a_pipe_or_a_device_is_not_replaced_by_a_file(tmp_path):
    files.os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe is not a regular file: choose a different path, or remove it"):
        write_atomic(tmp_path / "pipe", b"")
    assert (tmp_path / "pipe").is_fifo()


def test_a_lock_that_cannot_be_opened_is_one_sentence(lock, tmp_path):
    lock.mkdir(parents=True)
    (tmp_path / "file").write_text("")
    for path, told in ((lock, "Is a directory"), (tmp_path / "file" / "lock", "File exists")):
        with pytest.raises(UserError, match=rf"cannot be written \({told}\): correct this"), hold_lock(path, "x"):
            pass


def test_a_lock_of_another_user_is_held_if_its_holder_says_so():
    with shared_folder() as folder:
        lock = folder / "a.lock"
        with hold_lock(lock, "x"):
            read_only(folder)
            assert as_other_user(lambda: is_locked(lock))
        folder.chmod(0o755)
        files._holder_note(lock).unlink(missing_ok=True)
        assert not as_other_user(lambda: is_locked(lock))


def test_every_lock_of_the_package_is_told():
    sources = (path for wing in ("benchmark", "methods", "datasets") for path in (chxbench.ROOT / wing).rglob("*.py"))
    assert [path.name for path in sources if "filelock" in path.read_text(encoding="utf-8")] == ["files.py"]


def test_a_part_that_was_left_over_is_replaced_and_a_folder_in_its_place_is_named(tmp_path):
    (tmp_path / "a.part").write_bytes(b"half of it, and longer")
    write_atomic(tmp_path / "a", b"whole")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"whole")]
    (tmp_path / "b.part").mkdir()
    with pytest.raises(UserError, match=r"b\.part cannot be written \(Is a directory\): correct this"):
        write_atomic(tmp_path / "b", b"whole")
