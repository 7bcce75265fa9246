"""Command line: fetch recordings, train, evaluate, transfer, show results."""

from __future__ import annotations

import argparse
import dataclasses
import io
import shlex
import sys
from datetime import date
from pathlib import Path
from typing import Any, NoReturn

from ecgnb import values
from ecgnb.constants import FS
from ecgnb.errors import EcgnbError

MODEL_HELP = (
    "a shipped model by name, a .keras or .h5 file, or package.module:function that returns a model or classifier"
)
DATA_HELP = "auto, physionet, demo, a folder, or an .npz file (auto)"


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
        given = sys.argv[1:] if arguments is None else arguments
        options.command_line = shlex.join(["python", "-m", "ecgnb", *given])
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
    _add_reading(parser)
    parser.set_defaults(run=_data)


def _data(options: argparse.Namespace) -> None:
    from ecgnb.data.audit import as_text, audit

    print(as_text(audit(options.data, full=not options.quick, bad=options.bad, reading=_reading(options))))


def _add_reading(parser: argparse.ArgumentParser) -> None:
    """Options that say how recordings of one's own are read."""
    group = parser.add_argument_group("recordings of your own (an .npz file, or WFDB records with labels.csv)")
    group.add_argument("--labels", type=Path, help="the label table of a folder: record,label (labels.csv in it)")
    group.add_argument("--leads", help="names of the leads to take, in that order: I,II (all)")
    group.add_argument("--resample", metavar="HZ", help="bring recordings to this sampling rate (as they are)")
    group.add_argument("--samples", metavar="N", help="cut or zero-pad recordings to so many samples (the longest)")
    group.add_argument("--standardise", help="recording, lead, none, or MEAN,SD in mV (recording)")
    group.add_argument("--r-peak-lead", help="name of the lead that R-peaks are looked for in (II, or the first)")


def _reading(options: argparse.Namespace) -> Any:
    from ecgnb.data.own import Reading

    resample = None if options.resample is None else values.read("--resample", options.resample, 300.0, values.POSITIVE)
    samples = None if options.samples is None else values.read("--samples", options.samples, 9000, ">= 2")
    standardise = options.standardise
    if standardise and "," in standardise:
        standardise = tuple(values.read("--standardise", part, 0.5) for part in standardise.split(","))
    leads = tuple(options.leads.split(",")) if options.leads else None
    return Reading(options.labels, leads, resample, samples, standardise, options.r_peak_lead)


def _add_threat(parser: argparse.ArgumentParser) -> None:
    """Options that say what is attacked, and how far."""
    group = parser.add_argument_group("threat model (by default the study's: AF is to be predicted as normal)")
    group.add_argument("--attack-class", help='class whose recordings are attacked; "" for all')
    group.add_argument("--target", help='class to be predicted; "" for any other (that, if --attack-class is given)')
    group.add_argument("--epsilon", default=0.2, help="largest change of a sample (0.2)")
    group.add_argument("--unit", default="z", help="of ε: z (z-units) or µV (z)")


def _threat(options: argparse.Namespace, dataset: Any) -> Any:
    """The threat model that options ask for. Raises EcgnbError if they must say what is attacked, and do not."""
    from ecgnb.attacks.threats import Threat

    attacked, target = options.attack_class, options.target
    unit = "µV" if options.unit in ("uV", "μV") else options.unit
    present = [symbol for c, symbol in enumerate(dataset.classes) if (dataset.y == c).any()]
    remedy = f"say with --attack-class which of {', '.join(present)} is attacked, or '' for all"
    if attacked is None:
        if target is not None or not {"A", "N"} <= set(dataset.classes):
            raise EcgnbError(f"{dataset.title}: {remedy}")
        attacked, target = "A", "N"
    threat = Threat(attacked, target or "", options.epsilon, unit)
    threat.goal(dataset.classes)
    if not threat.is_attacked(dataset).any():
        raise EcgnbError(f"{dataset.title}: no recording of class {attacked}, nothing to attack; {remedy}")
    return threat


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
        "a name, a file, or package.module:function (a defence: the protocol's baseline; baseline: none)",
    )
    parser.add_argument("--fresh", action="store_true", help="ignore a checkpoint in the folder")
    _add_reading(parser)
    for setting in dataclasses.fields(TrainingConfig):
        if setting.name != "defence":
            allowed = setting.metadata["allowed"]
            text = setting.metadata["help"] + (f" ({allowed})" if allowed and isinstance(allowed, str) else "")
            parser.add_argument(f"--{setting.name.replace('_', '-')}", metavar=str(setting.type), help=text)
    parser.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> None:
    from ecgnb.data.dataset import load_data
    from ecgnb.models.files import load_model
    from ecgnb.training.configuration import TrainingConfig, shipped_name, training_config
    from ecgnb.training.loop import train
    from ecgnb.training.selection import best_and_last

    names = {setting.name for setting in dataclasses.fields(TrainingConfig)} - {"defence"}
    overrides = {n: v for n, v in vars(options).items() if n in names and v is not None}
    config = training_config(options.defence, options.protocol, **overrides)
    values.check_folder("folder", options.folder)
    how = {"protocol": options.protocol, "data": options.data, "reading": _reading(options)}
    train_set, dev_set = (load_data(split, **how) for split in ("train", "dev"))
    name = options.start or ("" if config.defence == "baseline" else shipped_name("baseline", options.protocol))
    start = load_model(name) if name else None
    _, history = train(config, train_set, dev_set, options.folder, start, resume=not options.fresh)
    print(best_and_last(history))
    print(f"selected model: {options.folder / 'selected.keras'}")


def _add_evaluate(commands: Any) -> None:
    from ecgnb.evaluation.suites import SUITE_NAMES

    parser = commands.add_parser(
        "evaluate",
        help="attack a model in many ways, check the attacks, write JSON and an HTML page",
        description="Attacks the recordings of a class, by default AF. The same call resumes an interrupted "
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
        "threat models, certification and more, a quarter of an hour; full: hours; results: the results "
        "table's own (quick)",
    )
    parser.add_argument("--surrogate", default="", help="model to transfer attacks from (baseline; for it, adaptive)")
    parser.add_argument("--seed", default=2017, help="of random starts, noise and intervals (2017)")
    parser.add_argument("--out", type=Path, default=Path("out/evaluation"), help="(out/evaluation)")
    parser.add_argument(
        "--save-examples", action="store_true", help="also write adversarial examples, to OUT/…-examples.npz"
    )
    _add_threat(parser)
    _add_reading(parser)
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
    from ecgnb.evaluation.named import named_model, named_models

    settings = _model(options)
    if options.surrogate:
        model, *others = named_models(list(dict.fromkeys([options.model, options.surrogate])), *settings)
        return model, others[0] if others else model
    (model,) = named_models([options.model], *settings)
    shipped = named_model("adaptive" if model.name == "baseline" else "baseline")
    task = [(c.classes, c.fs, c.shape) for c in (model.classifier, shipped.classifier)]
    return model, shipped if task[0] == task[1] else None


def _evaluate(options: argparse.Namespace) -> None:
    from ecgnb.data.dataset import load_data
    from ecgnb.evaluation.engine import evaluate
    from ecgnb.evaluation.examples import save_examples
    from ecgnb.evaluation.schema import check_free, write_report
    from ecgnb.evaluation.suites import suite
    from ecgnb.evaluation.workers import workers
    from ecgnb.files import write_text
    from ecgnb.models.devices import one_core_a_batch
    from ecgnb.models.files import model_path
    from ecgnb.report.page import page
    from ecgnb.report.runs import trained_under
    from ecgnb.report.tables import clean_table, headline

    seed = values.read("--seed", options.seed, 2017, values.SEED)
    values.check_folder("--out", options.out)
    one_core_a_batch()
    # Recordings that the model was trained on must not pass for others.
    protocol = "original" if trained_under(model_path(options.model)) == "original" else "leakfree"
    dataset = load_data(options.split, protocol=protocol, data=options.data, reading=_reading(options))
    model, surrogate = _model_and_surrogate(options)
    dataset = dataset.with_classes(model.classifier.classes)
    threat = _threat(options, dataset)
    path = options.out / f"{model.name}-{dataset.split}-{options.suite}.json"
    check_free(path, model.digest, dataclasses.asdict(threat), dataset.source + dataset.left_out)
    with workers(options.cluster) as computing:
        report = evaluate(
            model,
            dataset,
            suite(options.suite, threat, dataset),
            surrogate=surrogate,
            cache=options.out / "cache",
            seed=seed,
            progress=True,
            workers=computing,
        )
    write_report(path, report)
    if options.save_examples:
        examples = path.with_name(f"{path.stem}-examples.npz")
        save_examples(examples, report, dataset)
        print(examples)
    html = path.with_suffix(".html")
    made = {"command": options.command_line, "date": date.today().isoformat()}
    write_text(html, page(report, dataset, made))
    print(dataset.title)
    print(f"nothing attacked:\n{clean_table(report).to_string()}")
    for what, number in headline(report).items():
        print(f"{what}: {number}")
    for check in report.checks:
        if check.verdict in ("warn", "fail"):
            print(f"{check.verdict}: {check.title}: {check.evidence}; {check.advice}")
    for what in report.left_out:
        print(f"left out: {what}")
    print(f"{path}\n{html}")


def _add_transfer(commands: Any) -> None:
    parser = commands.add_parser(
        "transfer",
        help="craft attacks on each of several models, evaluate them on each",
        description="The study's PGD-20, by default on the AF recordings: crafted on one model, evaluated on another.",
    )
    parser.add_argument("models", nargs="+", help=MODEL_HELP)
    _add_model(parser)
    parser.add_argument("--data", default="auto", help=DATA_HELP)
    parser.add_argument("--split", default="validation", help="validation or test (validation)")
    parser.add_argument("--out", type=Path, default=Path("out/evaluation"), help="(out/evaluation)")
    _add_threat(parser)
    _add_reading(parser)
    _add_cluster(parser)
    parser.set_defaults(run=_transfer)


def _transfer(options: argparse.Namespace) -> None:
    from ecgnb.data.dataset import load_data
    from ecgnb.evaluation.engine import transfer
    from ecgnb.evaluation.named import named_models
    from ecgnb.evaluation.workers import workers
    from ecgnb.files import write_json
    from ecgnb.models.devices import one_core_a_batch
    from ecgnb.report.tables import transfer_table

    values.check_folder("--out", options.out)
    one_core_a_batch()
    models = named_models(options.models, *_model(options))
    dataset = load_data(options.split, data=options.data, reading=_reading(options))
    dataset = dataset.with_classes(models[0].classifier.classes)
    threat = _threat(options, dataset)
    with workers(options.cluster) as computing:
        found = transfer(models, dataset, threat, cache=options.out / "cache", progress=True, workers=computing)
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
