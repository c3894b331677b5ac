"""How quickly ``cristae --help`` answers, against a bare interpreter in the same run."""

import subprocess
import sys
import time


def quickest(command: list[str], runs: int = 7) -> float:
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    ours = quickest([sys.executable, "-m", "cristae", "--help"])
    bare = quickest([sys.executable, "-c", "pass"])
    print(f"cristae --help {ours:.3f} s, bare interpreter {bare:.3f} s, ratio {ours / bare:.1f}")


if __name__ == "__main__":
    main()
