"""How quickly ``cristae --help`` answers, against a bare interpreter in the same run."""

import argparse
import subprocess
import sys
import time


def quickest(command: list[str], runs: int) -> float:
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="three runs in place of seven")
    runs = 3 if parser.parse_args().small else 7
    ours = quickest([sys.executable, "-m", "cristae", "--help"], runs)
    bare = quickest([sys.executable, "-c", "pass"], runs)
    print(f"cristae --help {ours:.3f} s, bare interpreter {bare:.3f} s, ratio {ours / bare:.1f}")


if __name__ == "__main__":
    main()
