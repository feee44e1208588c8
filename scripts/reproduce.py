"""The papers' claims and what became of them: lists them, checks them anew, writes docs/claims.md.

    python scripts/reproduce.py                        # the claims and their verdicts
    python scripts/reproduce.py inr-memory             # checks one, and says how its figure is made
    python scripts/reproduce.py --all                  # checks all that have a quick check: some minutes of two cores
    python scripts/reproduce.py --page                 # writes docs/claims.md from scripts/studies/claims.yaml

A check runs the tests that would fail if the verdict were another one. Figures of studies take hours; their commands
stand beside them. --all writes its results, with commit and machine, into scripts/studies/claims_checked.json, from
which the page tells when each claim was last checked.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import time

import yaml
from hiresmed.core.errors import InputError, install_error_hook
from hiresmed.core.output_files import write_then_rename
from hiresmed.core.processor import processor_name

ROOT = pathlib.Path(__file__).resolve().parents[1]
CLAIMS = ROOT / "scripts" / "studies" / "claims.yaml"
CHECKED = CLAIMS.with_name("claims_checked.json")
PAGE = ROOT / "docs" / "claims.md"
VERDICTS = ("holds", "in part", "does not hold", "not tested here")
PAPERS = {
    "MSGAN": "Uzunova et al. 2019, multi-scale patch GANs (`msgan_ct3d`, `msgan_xray2d`)",
    "PatchDDM": "Bieder et al. 2023, PatchDDM (`patchddm_brats`)",
    "INR": "Lee et al. 2022, INR GANs by patches in stages (`inr_gan_multistage`)",
    "DCGAN": "Cepa, Brito, Sousa 2024, DCGAN and WGAN-GP of brain MR (`dcgan_mri`)",
}
INTRODUCTION = """# The papers' claims

What the four papers claim, what we measured, and the verdict. Each figure stands with the command that gives it; its
conditions are in the bundle's card. `scripts/reproduce.py` checks a claim anew. This page is made from
`scripts/studies/claims.yaml`.
"""


def claims() -> list[dict]:
    """All claims; InputError for one that is incomplete or has an unknown verdict."""
    entries = yaml.safe_load(CLAIMS.read_text(encoding="utf-8"))
    for entry in entries:
        missing = {"id", "paper", "claim", "verdict", "figure", "command"} - set(entry)
        if missing or entry.get("verdict") not in VERDICTS or entry.get("paper") not in PAPERS:
            raise InputError(
                f"claim {entry.get('id')} must have a claim, a figure, a command, a paper of {', '.join(PAPERS)} and a "
                f"verdict of {', '.join(VERDICTS)}, got {sorted(entry)}; complete it in {CLAIMS.name}."
            )
        if entry["verdict"] != "holds" and "why" not in entry:
            raise InputError(f"claim {entry['id']} must say why it is '{entry['verdict']}', got no `why`; add it.")
    return entries


def check(entry: dict) -> dict | None:
    """Runs a claim's tests: {"passed", "seconds"}; None where it has none."""
    tests = entry.get("check", {}).get("tests")
    if not tests:
        return None
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-n", "0", *tests], cwd=ROOT, check=False)
    return {"passed": done.returncode == 0, "seconds": round(time.monotonic() - begun)}


def page(entries: list[dict], checked: dict) -> str:
    """docs/claims.md."""
    parts = [INTRODUCTION]
    of = {v: sum(e["verdict"] == v for e in entries) for v in VERDICTS}
    about = checked.get("about", {})
    when = f" Checked last at commit {about['commit']} on {about['processor']}." if about else ""
    parts.append(
        f"{of['holds']} of {len(entries)} claims hold, {of['in part']} hold in part, {of['does not hold']} do not, "
        f"{of['not tested here']} were not tested.{when}\n"
    )
    for key, title in PAPERS.items():
        parts.append(f"## {title}\n\n| claim | verdict | figure | command |\n|---|---|---|---|")
        for e in (e for e in entries if e["paper"] == key):
            figure = f"{e['figure']}. {e['why']}" if "why" in e else e["figure"]
            outcome = checked.get("claims", {}).get(e["id"])
            verdict = f"**{e['verdict']}**" + (", checked" if outcome and outcome["passed"] else "")
            cells = (f"{e['claim']} (`{e['id']}`)", verdict, figure, f"`{e['command']}`")
            parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        parts.append("")
    return "\n".join(parts)


def checked_before() -> dict:
    return json.loads(CHECKED.read_text(encoding="utf-8")) if CHECKED.exists() else {}


def check_all(entries: list[dict]) -> int:
    """Checks all claims that have a check; 1 if one fails."""
    outcomes = {}
    for entry in entries:
        outcome = check(entry)
        if outcome is not None:
            outcomes[entry["id"]] = outcome
            print(
                f"{entry['id']}: {'as before' if outcome['passed'] else 'NOT AS BEFORE'}: {entry['verdict']}",
                flush=True,
            )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    content = {"about": {"commit": commit, "processor": processor_name()}, "claims": outcomes}
    with write_then_rename(CHECKED) as aside:
        aside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    failed = [name for name, outcome in outcomes.items() if not outcome["passed"]]
    seconds = sum(outcome["seconds"] for outcome in outcomes.values())
    print(f"{len(outcomes)} of {len(entries)} claims checked in {seconds} s, {len(failed)} not as before.")
    return int(bool(failed))


def main() -> None:
    install_error_hook()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("claim", nargs="?", help="its id")
    parser.add_argument("--all", action="store_true", help="check all that have a quick check")
    parser.add_argument("--page", action="store_true", help="write docs/claims.md")
    args = parser.parse_args()
    entries = claims()
    if args.page:
        with write_then_rename(PAGE) as aside:
            aside.write_text(page(entries, checked_before()), encoding="utf-8")
    elif args.all:
        sys.exit(check_all(entries))
    elif args.claim is None:
        for e in entries:
            print(f"{e['id']:28} {e['verdict']:16} {e['claim']}")
    else:
        known = {e["id"]: e for e in entries}
        if args.claim not in known:
            raise InputError(f"claim must be one of {', '.join(known)}, got {args.claim}; choose one of them.")
        e = known[args.claim]
        print(f"{e['claim']}\n{e['verdict']}: {e['figure']}\nin full: {e['command']}", flush=True)
        outcome = check(e)
        sys.exit(0 if outcome is None else int(not outcome["passed"]))


if __name__ == "__main__":
    main()
