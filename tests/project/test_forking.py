"""The copies that tests run commands in are as good as processes that start: environment, signals, random numbers."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from forking import folder, python
from tiny import FAST, write_dataset

from medseg.workflows.train.run import train

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="Linux alone")


def run(code: str, *words: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([python(), "-c", code, *words], capture_output=True, text=True, timeout=100, **options)


def value(code: str, **options) -> object:
    """What an expression is in a copy."""
    done = run(f"import json, os, resource, signal, sys; print(json.dumps({code}))", **options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_folder_arguments_environment_and_input_are_the_callers(tmp_path):
    given = os.environ | {"MEDSEG_OF_A_TEST": "seen"}
    assert value("os.getcwd()", cwd=tmp_path) == str(tmp_path)
    assert value("os.environ['MEDSEG_OF_A_TEST']", env=given) == "seen"
    assert "MEDSEG_OF_A_TEST" not in value("dict(os.environ)")
    assert value("sys.stdin.read()", input="said") == "said"
    assert run("import sys; print(sys.argv)", "a", "b c").stdout == "['-c', 'a', 'b c']\n"
    assert value("sys.orig_argv[1:2]") == ["-c"]
    assert value("sys.executable") == python()


def test_it_has_imported_everything_and_done_nothing():
    """One thread, as a new process has, and as few as the environment says once torch works."""
    code = "[len(os.listdir('/proc/self/task')), 'medseg.workflows.train.run' in sys.modules]"
    assert value(code, env=os.environ | {"OMP_NUM_THREADS": "1"}) == [1, True]
    threads = "__import__('torch').get_num_threads()"
    assert value(threads, env=os.environ | {"OMP_NUM_THREADS": "3"}) == 3
    without = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    assert value(threads, env=without) == len(os.sched_getaffinity(0))


def test_cores_limits_and_ignored_signals_are_the_callers(one_core):
    assert value("len(os.sched_getaffinity(0))") == 1

    def change() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (123, 1000))
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    assert value("resource.getrlimit(resource.RLIMIT_NOFILE)", preexec_fn=change) == [123, 1000]
    assert value("signal.getsignal(signal.SIGINT) == signal.SIG_IGN", preexec_fn=change) is True
    assert value("signal.getsignal(signal.SIGTERM) == signal.SIG_DFL") is True


def test_random_numbers_are_its_own():
    code = "[__import__('random').random(), __import__('numpy').random.rand(), float(__import__('torch').rand(1))]"
    first, second = value(code), value(code)
    assert all(one != other for one, other in zip(first, second, strict=True))


def test_variables_that_only_a_new_process_follows_start_one():
    """What the C library, the interpreter and libraries read as they start."""
    loaded = "'torch' in sys.modules"

    assert value(loaded, env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": "elsewhere"}) is True
    assert value(loaded, env=os.environ | {"PYTHONUNBUFFERED": "1", "TORCHELASTIC_RUN_ID": "none"}) is True
    assert value(loaded, env=os.environ | {"MALLOC_ARENA_MAX": "1"}) is False
    assert value(loaded, env=os.environ | {"PYTHONIOENCODING": "latin-1"}) is False


def test_failures_are_shown_as_those_of_a_process():
    failed = run("import sys\nprint('half', end='')\nraise ValueError('no such luck')")
    assert (failed.returncode, failed.stdout) == (1, "half")
    assert failed.stderr.startswith("Traceback (most recent call last):\n")
    assert failed.stderr.endswith("ValueError: no such luck\n")
    assert run("import sys; sys.exit('a word')").stderr == "a word\n"
    assert run("import os; os._exit(7)").returncode == 7
    assert run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)").returncode == -signal.SIGKILL
    unbuffered = {"env": os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}}
    assert run("import os; print('said'); os._exit(0)", **unbuffered).stdout == "said\n"
    assert "Fatal Python error: Aborted" in run("import os; os.abort()", **unbuffered).stderr
    said = subprocess.run(
        [python(), "-u", "-c", "import os; print('said'); os._exit(0)"], capture_output=True, text=True
    )
    assert said.stdout == "said\n"
    assert run("import atexit; atexit.register(print, 'at the end')").stdout == "at the end\n"


WAITS = """
import os, signal, sys, time
def told(number, frame):
    print(signal.Signals(number).name, flush=True)
    sys.exit(5)
signal.signal(signal.SIGTERM, told)
if len(sys.argv) > 1 and os.fork() == 0:
    signal.signal(signal.SIGINT, told)
os.write(1, f'{os.getpid()} '.encode())
time.sleep(60)
"""


def started(*words: str, **options) -> tuple[subprocess.Popen[str], list[int]]:
    """A program, and the numbers of its processes, which wait."""
    process = subprocess.Popen(
        [python(), "-c", WAITS, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler), **options,
    )  # fmt: skip
    assert process.stdout is not None
    numbers = ""
    while numbers.count(" ") < 1 + len(words):
        read = os.read(process.stdout.fileno(), 1000).decode()
        assert read, process.communicate()
        numbers += read
    return process, [int(number) for number in numbers.split()]


def test_signals_reach_it():
    process, _ = started()
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20)[0] == "SIGTERM\n"
    assert process.returncode == 5
    process, _ = started()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert said.endswith("KeyboardInterrupt\n")
    assert process.returncode == -signal.SIGINT


def test_an_interrupt_of_a_session_reaches_all_of_it():
    process, _ = started("two", start_new_session=True)
    os.killpg(process.pid, signal.SIGINT)
    said, error = process.communicate(timeout=20)
    assert said == "SIGINT\n", "of the process that it had started"
    assert error.count("KeyboardInterrupt\n") == 1


def test_killed_it_is_gone_with_all_that_it_started():
    process, numbers = started("two")
    process.kill()
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{number}/exe").exists() for number in numbers):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_training_and_its_prediction_are_those_of_any_process(tmp_path):
    manifest = write_dataset(tmp_path / "data")
    sets = [word for change in FAST for word in ("--set", change)]
    medseg = str(folder() / "medseg")
    words = ["train", "--task", "dtc", "--data", manifest, "-o", tmp_path / "copy", "--device", "cpu", *sets]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run([medseg, *map(str, words)], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'copy' / 'bundle'}\n"), done.stderr
    train("dtc", manifest, tmp_path / "here", overrides=FAST, device="cpu")
    weights = [tmp_path / run / "bundle" / "models" / "model.pt" for run in ("copy", "here")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    wrong = subprocess.run([python(), "-m", "medseg", "train"], capture_output=True, text=True)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "error: Missing option '--task'. (see medseg train --help)\n"


def test_what_it_starts_to_work_beside_it_starts_anew():
    code = (
        "import multiprocessing, sys\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print(pool.apply(eval, ('__import__(\"sys\").executable',)))\n"
    )
    assert run(code).stdout == f"{sys.executable}\n"
