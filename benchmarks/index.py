"""The index of all stored results: ``python -m benchmarks.index`` writes ``benchmarks/results/README.md``.

Every stored file belongs to a page that shows its figures; one that no page shows is an error, and is to be deleted or
to be shown.
"""

import json
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.records import RESULTS, write_text

INDEX = RESULTS / "README.md"
PAGES = {
    "learning": "docs/benchmarks.md",
    "reward_unit": "docs/deviations.md",
    "exploration": "docs/deviations.md",
    "td_steps_": "docs/deviations.md",
    "classic_control": "docs/benchmarks.md",
    "pong_cpu": "docs/history.md",
    "action_spaces/walk": "docs/action_masks.md",
    "action_masks_cost": "docs/action_masks.md",
    "action_spaces": "docs/action_spaces.md",
    "replay_memory": "docs/algorithm.md",
    "search_cost": "docs/performance.md",
    "cost_growth": "docs/performance.md",
    "end_to_end": "docs/performance.md",
    "start_up": "docs/performance.md",
    "update_cost": "docs/performance.md",
    "gpu_checks": "docs/performance.md",
    "compare": "docs/performance.md",
    "journal_kills": "docs/journal.md",
    "old_data": "docs/old_data.md",
    "image": "docs/images.md",
    "exported": "docs/export.md",
    "ranks": "docs/many_cores.md",
    "reliability/sweeps": "docs/many_cores.md",
    "reliability": "docs/checkpoints.md",
}
"""Page that shows a result, by how the name of its file or of its outer folder begins."""


def page_of(name: str) -> str:
    """Page that shows a file, whose name begins with its outer folder.

    :raises ValueError: if none does
    """
    for beginning, page in PAGES.items():
        if name.startswith(beginning):
            return page
    raise ValueError(
        f"benchmarks/results/{name} is shown by no page; name its page in benchmarks/index.py or delete it"
    )


def rows(paths: Iterable[Path], results: Path) -> list[str]:
    """Lines of the table, one for every folder and for every file that is in none."""
    named = sorted((path.relative_to(results).as_posix(), path) for path in paths)
    lines = []
    for place, group in groupby(named, key=lambda item: item[0].rpartition("/")[0] or item[0]):
        files = [path for _, path in group]
        records: list[dict[str, Any]] = [json.loads(path.read_text(encoding="utf-8")) for path in files]
        commits = dict.fromkeys(record["commit"][:7] for record in records)
        command = records[0]["command"]
        n_files = f", {len(files)} files" if place.endswith(".json") is False else ""
        lines.append(f"| [{place}]({place}){n_files} | {page_of(place)} | `{command}` | {', '.join(commits)} |")
    return lines


def index(results: Path = RESULTS) -> str:
    """Text of the index.

    :raises ValueError: for a file that no page shows
    """
    lines = [
        "# Stored results",
        "",
        "Written by `python -m benchmarks.index`. Every file names its command, commit, machine and versions; a",
        "command is that of its commit, and of a folder the first file's is shown.",
        "",
        "| results | page | command | commits |",
        "|---|---|---|---|",
        *rows(results.rglob("*.json"), results),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the index."""
    write_text(INDEX, index())
    print(f"{INDEX}: {index().count('](')} entries")


if __name__ == "__main__":
    main()
