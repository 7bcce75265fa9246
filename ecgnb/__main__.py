"""Command line: fetch recordings, train, evaluate, transfer, show results."""

from __future__ import annotations

import argparse
import dataclasses
import io
import sys
from pathlib import Path
from typing import Any, NoReturn

from ecgnb import values
from ecgnb.constants import FS
from ecgnb.errors import EcgnbError

MODEL_HELP = (
    "a shipped model by name, a .keras or .h5 file, or package.module:function that returns a model or classifier"
)
DATA_HELP = "auto, physionet, demo or a folder (auto)"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Bad options in one line, as all bad input."""
        raise EcgnbError(f"{message}; {self.prog} --help explains them")


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 2 for bad input, 130 when interrupted."""
    parser = _Parser(prog="python -m ecgnb", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for add in (_add_data, _add_train, _add_evaluate, _add_transfer, _add_results):
        add(commands)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that cannot show ε shows its number
            stream.reconfigure(errors="backslashreplace")
    try:
        options = parser.parse_args(arguments)
        options.run(options)
    except EcgnbError as error:
        print(f"ecgnb: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ecgnb: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    return 0


def _add_data(commands: Any) -> None:
    parser = commands.add_parser(
        "data",
        help="fetch, verify and audit the recordings",
        description="Fetch the recordings, verify them, and show what is in them.",
    )
    parser.add_argument("--data", default="auto", help=DATA_HELP)
    parser.add_argument(
        "--quick", action="store_true", help="without the 99 MB training archive: manifest and labels v3 only"
    )
    parser.add_argument("--bad", default="error", help="bad recordings: error or skip (error)")
    parser.set_defaults(run=_data)


def _data(options: argparse.Namespace) -> None:
    from ecgnb.data.audit import as_text, audit

    print(as_text(audit(options.data, full=not options.quick, bad=options.bad)))


def _add_train(commands: Any) -> None:
    from ecgnb.training.configuration import DEFENCES, TrainingConfig

    parser = commands.add_parser(
        "train",
        help="train the baseline or a defence; the same call resumes an interrupted run",
        description="Settings that are not given are the protocol's own (see ecgnb/training/configuration.py).",
    )
    parser.add_argument(
        "defence",
        help="; ".join(f"{name}: {what}" for name, what in DEFENCES.items())
        + "; or package.module:Class, a defence of your own",
    )
    parser.add_argument("folder", type=Path, help="for the checkpoint, the selected model, the history")
    parser.add_argument("--protocol", default="leakfree", help="leakfree or original (leakfree)")
    parser.add_argument("--data", default="auto", help=DATA_HELP)
    parser.add_argument(
        "--start",
        default="",
        help="model to start from, of any architecture: "
        "a name, a file, or package.module:function (a defence: baseline; baseline: none)",
    )
    parser.add_argument("--fresh", action="store_true", help="ignore a checkpoint in the folder")
    for setting in dataclasses.fields(TrainingConfig):
        if setting.name != "defence":
            allowed = setting.metadata["allowed"]
            text = setting.metadata["help"] + (f" ({allowed})" if allowed and isinstance(allowed, str) else "")
            parser.add_argument(f"--{setting.name.replace('_', '-')}", metavar=str(setting.type), help=text)
    parser.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> None:
    from ecgnb.data.dataset import load_data
    from ecgnb.models.files import load_model
    from ecgnb.training.configuration import TrainingConfig, training_config
    from ecgnb.training.loop import train
    from ecgnb.training.selection import best_and_last

    names = {setting.name for setting in dataclasses.fields(TrainingConfig)} - {"defence"}
    overrides = {n: v for n, v in vars(options).items() if n in names and v is not None}
    config = training_config(options.defence, options.protocol, **overrides)
    values.check_folder("folder", options.folder)
    train_set, dev_set = (load_data(split, protocol=options.protocol, data=options.data) for split in ("train", "dev"))
    name = options.start or ("" if config.defence == "baseline" else "baseline")
    start = load_model(name) if name else None
    _, history = train(config, train_set, dev_set, options.folder, start, resume=not options.fresh)
    print(best_and_last(history))
    print(f"selected model: {options.folder / 'selected.keras'}")


def _add_evaluate(commands: Any) -> None:
    from ecgnb.evaluation.suites import SUITE_NAMES

    parser = commands.add_parser(
        "evaluate",
        help="attack a model in many ways, check the attacks, write JSON and an HTML page",
        description="Attacks the AF recordings of a split. The same call resumes an interrupted "
        "evaluation: finished chunks are stored in OUT/cache.",
    )
    parser.add_argument("model", help=MODEL_HELP)
    _add_model(parser)
    parser.add_argument("--data", default="auto", help=DATA_HELP)
    parser.add_argument("--split", default="validation", help="validation, or test: 99 MB (validation)")
    parser.add_argument(
        "--suite",
        choices=SUITE_NAMES,
        default="quick",
        help="quick: nine attacks under the study's threat model and checks, minutes; standard: also other "
        "threat models, certification and more, half an hour; full: hours; results: the results "
        "table's own (quick)",
    )
    parser.add_argument("--surrogate", default="", help="model to transfer attacks from (baseline; for it, adaptive)")
    parser.add_argument("--seed", default=2017, help="of random starts, noise and intervals (2017)")
    parser.add_argument("--out", type=Path, default=Path("out/evaluation"), help="(out/evaluation)")
    _add_cluster(parser)
    parser.set_defaults(run=_evaluate)


def _add_cluster(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cluster",
        default="",
        help="who computes: local (a process a core), local:N, or the address of a Dask scheduler, for "
        "many machines (this process)",
    )


def _add_model(parser: Any) -> None:
    parser.add_argument(
        "--classes",
        default="",
        help="classes of a Keras model, in the order of its logits, such as N,A; of one sigmoid unit, the second is "
        "what it finds (A,N,O,~)",
    )
    parser.add_argument("--fs", default=FS, help=f"sampling rate of a Keras model's input, Hz ({FS})")


def _model(options: argparse.Namespace) -> tuple[tuple[str, ...], float]:
    """Classes and sampling rate of models that do not say so themselves."""
    classes = tuple(options.classes.replace(",", " ").split())
    if len(set(classes)) < len(classes) or len(classes) == 1:
        raise EcgnbError(f"--classes {options.classes}: expected two or more different classes, such as N,A")
    return classes, values.read("--fs", options.fs, 300.0, values.POSITIVE)


def _model_and_surrogate(options: argparse.Namespace) -> tuple[Any, Any]:
    """The model to evaluate, and one to transfer attacks from: None if no shipped one takes the same recordings."""
    from ecgnb.evaluation.engine import named_model, named_models

    settings = _model(options)
    if options.surrogate:
        model, *others = named_models(list(dict.fromkeys([options.model, options.surrogate])), *settings)
        return model, others[0] if others else model
    (model,) = named_models([options.model], *settings)
    shipped = named_model("adaptive" if model.name == "baseline" else "baseline")
    task = [(c.classes, c.fs, c.shape) for c in (model.classifier, shipped.classifier)]
    if task[0] == task[1]:
        return model, shipped
    print("no shipped model takes such recordings: the check of transferred attacks is left out; --surrogate gives one")
    return model, None


def _evaluate(options: argparse.Namespace) -> None:
    from ecgnb.data.dataset import load_data
    from ecgnb.evaluation.engine import evaluate
    from ecgnb.evaluation.schema import check_free, write_report
    from ecgnb.evaluation.suites import suite
    from ecgnb.evaluation.workers import workers
    from ecgnb.files import write_text
    from ecgnb.report.page import page
    from ecgnb.report.tables import headline

    seed = values.read("--seed", options.seed, 2017, values.SEED)
    values.check_folder("--out", options.out)
    dataset = load_data(options.split, data=options.data)
    model, surrogate = _model_and_surrogate(options)
    path = options.out / f"{model.name}-{dataset.split}-{options.suite}.json"
    check_free(path, model.digest)
    with workers(options.cluster) as computing:
        report = evaluate(
            model,
            dataset,
            suite(options.suite),
            surrogate=surrogate,
            cache=options.out / "cache",
            seed=seed,
            progress=True,
            workers=computing,
        )
    write_report(path, report)
    html = path.with_suffix(".html")
    write_text(html, page(report))
    print(dataset.title)
    for what, number in headline(report).items():
        print(f"{what}: {number}")
    for check in report.checks:
        if check.verdict != "pass":
            print(f"{check.verdict}: {check.title}: {check.evidence}; {check.advice}")
    print(f"{path}\n{html}")


def _add_transfer(commands: Any) -> None:
    parser = commands.add_parser(
        "transfer",
        help="craft attacks on each of several models, evaluate them on each",
        description="The study's PGD-20 on the AF recordings: crafted on one model, evaluated on another.",
    )
    parser.add_argument("models", nargs="+", help=MODEL_HELP)
    _add_model(parser)
    parser.add_argument("--data", default="auto", help=DATA_HELP)
    parser.add_argument("--split", default="validation", help="validation or test (validation)")
    parser.add_argument("--out", type=Path, default=Path("out/evaluation"), help="(out/evaluation)")
    _add_cluster(parser)
    parser.set_defaults(run=_transfer)


def _transfer(options: argparse.Namespace) -> None:
    from ecgnb.data.dataset import load_data
    from ecgnb.evaluation.engine import named_models, transfer
    from ecgnb.evaluation.workers import workers
    from ecgnb.files import write_json
    from ecgnb.report.tables import transfer_table

    values.check_folder("--out", options.out)
    dataset = load_data(options.split, data=options.data)
    models = named_models(options.models, *_model(options))
    with workers(options.cluster) as computing:
        found = transfer(models, dataset, cache=options.out / "cache", progress=True, workers=computing)
    path = options.out / f"transfer-{dataset.split}.json"
    write_json(path, found)
    print(f"{dataset.title}; attack success rate, crafted on (rows), evaluated on (columns)")
    print(transfer_table(found["success"]).to_string())
    print(path)


def _add_results(commands: Any) -> None:
    parser = commands.add_parser(
        "results",
        help="print the summary of a run of the notebooks",
        description="Prints the summary table from the figures' JSON.",
    )
    parser.add_argument("folder", type=Path, nargs="?", default=Path("figures"), help="(figures)")
    parser.set_defaults(run=_results)


def _results(options: argparse.Namespace) -> None:
    from ecgnb.evaluation.schema import read_report
    from ecgnb.report.tables import summary_table

    sources = {
        "baseline": "baseline_attacked.json",
        "static": "static_matrix_attacked.json",
        "adaptive": "final_clean_matrix.json",
    }
    reports = {name: read_report(options.folder / file) for name, file in sources.items()}
    print(summary_table(reports).to_string())


if __name__ == "__main__":
    sys.exit(main())
