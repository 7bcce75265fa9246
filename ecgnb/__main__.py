"""Command line: `python -m ecgnb data`, `train`, `sweep`, `evaluate`, `transfer` and `results`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from ecgnb.errors import EcgnbError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ecgnb", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_data(commands)
    _add_train(commands)
    _add_sweep(commands)
    _add_evaluate(commands)
    _add_transfer(commands)
    _add_results(commands)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except EcgnbError as error:
        print(f"ecgnb: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ecgnb: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    return 0


def _add_data(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "data", help="fetch, verify and audit the recordings", description="Fetch, verify, audit."
    )
    parser.add_argument("--data", default="auto", help="auto, physionet, demo or a folder (auto)")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="without the 99 MB training archive: manifest and v3 only",
    )
    parser.add_argument("--bad", default="error", help="bad recordings: error or skip (error)")
    parser.set_defaults(run=_data)


def _data(options: argparse.Namespace) -> None:
    from ecgnb.data.audit import as_text, audit

    print(as_text(audit(options.data, full=not options.quick, bad=options.bad)))


def _add_train(commands: argparse._SubParsersAction) -> None:
    from ecgnb.training.configuration import DEFENCES, READ, TrainingConfig

    parser = commands.add_parser(
        "train",
        help="train the baseline or a defence; the same call goes on where the last one stopped",
        description="Settings that are not given are the protocol's own (see ecgnb/configuration.py).",
    )
    parser.add_argument(
        "defence",
        choices=DEFENCES,
        metavar="defence",
        help="; ".join(f"{name}: {what}" for name, what in DEFENCES.items()),
    )
    parser.add_argument("folder", type=Path, help="for the checkpoint, the kept model, the history")
    parser.add_argument("--protocol", default="leakfree", help="leakfree or original (leakfree)")
    parser.add_argument("--data", default="auto", help="auto, physionet, demo or a folder (auto)")
    parser.add_argument(
        "--start", default="", help="model to start from (a defence: baseline; baseline: none)"
    )
    parser.add_argument("--fresh", action="store_true", help="ignore a checkpoint in the folder")
    for field in dataclasses.fields(TrainingConfig):
        if field.name != "defence":
            kind = READ[field.type]
            flag = f"--{field.name.replace('_', '-')}"
            parser.add_argument(flag, type=kind, metavar=field.type, help=field.metadata["help"])
    parser.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> None:
    from ecgnb.data import dataset as data
    from ecgnb.models import devices
    from ecgnb.models import network as model
    from ecgnb.report.old_report import best_and_last
    from ecgnb.training.configuration import TrainingConfig, training_config
    from ecgnb.training import loop as training

    devices.together()  # several hosts join before anything is computed
    names = {field.name for field in dataclasses.fields(TrainingConfig)} - {"defence"}
    changes = {n: v for n, v in vars(options).items() if n in names and v is not None}
    config = training_config(options.defence, options.protocol, **changes)
    train_set, dev_set = (
        data.load(split, protocol=options.protocol, data=options.data) for split in ("train", "dev")
    )
    name = options.start or ("" if config.defence == "baseline" else "baseline")
    start = model.load(name) if name else None
    _, history = training.train(
        config, train_set, dev_set, options.folder, start, resume=not options.fresh
    )
    print(best_and_last(history))
    print(f"kept model: {options.folder / 'kept.keras'}")


def _add_sweep(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "sweep",
        help="many training runs from a plan, through papermill, to one tidy table; resumes",
        description="Each row of PLAN is a run of notebook 5: a CSV with a column `name` and columns named "
        "like the notebook's parameters. What is finished is not run again; what was interrupted goes on.",
    )
    parser.add_argument("plan", type=Path, help="models/runs.csv, models/ablation.csv or your own")
    parser.add_argument("folder", type=Path, help="for the runs, a folder each, and results.csv")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="these, and what they start from"
    )
    _add_cluster(parser)
    parser.set_defaults(run=_sweep)


def _sweep(options: argparse.Namespace) -> None:
    from sweep import TABLE, sweep

    from ecgnb.evaluation.workers import workers

    with workers(options.cluster) as them:
        sweep(options.plan, options.folder, options.only, them)
    print(options.folder / TABLE)


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="attack a model in every way, check the attacks, and write JSON and an HTML page",
        description="Attacks the AF recordings of a split. An interrupted evaluation goes on when called "
        "again: what is finished is kept in OUT/cache.",
    )
    parser.add_argument("model", help="a shipped model by name, or a .keras or .hdf5 file")
    parser.add_argument("--data", default="auto", help="auto, physionet, demo or a folder (auto)")
    parser.add_argument(
        "--split", default="validation", help="validation, or test: 99 MB (validation)"
    )
    parser.add_argument(
        "--budget",
        choices=("quick", "standard", "full"),
        default="quick",
        help="quick: minutes, claimed threat only; standard: half an hour; full: hours (quick)",
    )
    parser.add_argument(
        "--claimed-only",
        action="store_true",
        help="only AF to normal in L∞: no other threats, classes, front ends, certificates",
    )
    parser.add_argument(
        "--surrogate", default="", help="model to transfer from (baseline; for it, adaptive)"
    )
    parser.add_argument("--seed", type=int, default=2017, help="(2017)")
    parser.add_argument("--out", type=Path, default=Path("out/evaluation"), help="(out/evaluation)")
    _add_cluster(parser)
    parser.set_defaults(run=_evaluate)


def _add_cluster(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cluster",
        default="",
        help="who does the work: local (a process a core), local:N, or the address of a Dask scheduler, for "
        "many machines (this process)",
    )


def _evaluate(options: argparse.Namespace) -> None:
    from ecgnb.data import dataset as data
    from ecgnb.evaluation.engine import evaluate, report_path
    from ecgnb.evaluation.workers import workers
    from ecgnb.files import write_atomically
    from ecgnb.report.page import page
    from ecgnb.report.tables import headline

    dataset = data.load(options.split, data=options.data)
    with workers(options.cluster) as them:
        report = evaluate(
            options.model,
            dataset,
            options.budget,
            options.out,
            surrogate=options.surrogate,
            whole=options.budget != "quick" and not options.claimed_only,
            seed=options.seed,
            workers=them,
        )
    path = report_path(options.out, options.model, dataset.split, options.budget)
    html = path.with_suffix(".html")
    write_atomically(html, lambda target: target.write_text(page(report), "utf-8"))
    print(dataset.title)
    for what, number in headline(report).items():
        print(f"{what}: {number}")
    for check in report["checks"]:
        if check["verdict"] != "pass":
            print(f"{check['verdict']}: {check['name']}: {check['evidence']}; {check['advice']}")
    print(f"{path}\n{html}")


def _add_transfer(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "transfer",
        help="attack each of several models, and let every one read the result",
        description="PGD-20 of the original on the AF recordings: who made it, and who reads it.",
    )
    parser.add_argument("models", nargs="+", help="shipped models by name, or model files")
    parser.add_argument("--data", default="auto", help="auto, physionet, demo or a folder (auto)")
    parser.add_argument("--split", default="validation", help="validation or test (validation)")
    parser.add_argument("--out", type=Path, default=Path("out/evaluation"), help="(out/evaluation)")
    _add_cluster(parser)
    parser.set_defaults(run=_transfer)


def _transfer(options: argparse.Namespace) -> None:
    from ecgnb.data import dataset as data
    from ecgnb.evaluation.engine import transfers
    from ecgnb.evaluation.workers import workers
    from ecgnb.report.tables import transfer_table

    dataset = data.load(options.split, data=options.data)
    with workers(options.cluster) as them:
        found = transfers(options.models, dataset, options.out, workers=them)
    print(f"{dataset.title}; made with (rows), read by (columns): share of AF found clean turned N")
    print(transfer_table(found["success"]).to_string())
    print(options.out / f"transfer-{dataset.split}.json")


def _add_results(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "results",
        help="print the results table from the figures' JSON",
        description="Results table.",
    )
    parser.add_argument("folder", type=Path, nargs="?", default=Path("figures"), help="(figures)")
    parser.set_defaults(run=_results)


def _results(options: argparse.Namespace) -> None:
    from ecgnb.report.old_report import results_table

    print(results_table(options.folder))


if __name__ == "__main__":
    sys.exit(main())
