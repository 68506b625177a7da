#!/usr/bin/env python3
"""How well the tracker follows: HOTA, MOTA, IDF1 and identity switches on sequences of the MOTChallenge.

The folder holds sequences (each a folder with seqinfo.ini, det/det.txt and gt/gt.txt), or folders of
sequences, which are then sets of their own. The data never enter the project.
"""

import argparse
import configparser
import contextlib
import io
import pathlib
import subprocess
import sys
import tempfile

import numpy
import trackeval

# Other trackers on the sequences that docs/tracking.md names, online and without images, scored the same way.
PEERS = {
    "frcnn": {
        "ByteTrack, authors' code": (41.94, 43.77, 49.25, 148),
        "BoT-SORT without images, roboflow trackers": (43.90, 43.55, 50.36, 157),
        "OC-SORT, authors' code": (42.00, 41.60, 48.71, 119),
        "C-BIoU, roboflow trackers": (42.88, 43.73, 49.23, 131),
        "SORT, authors' code, age 30": (42.88, 41.81, 50.33, 134),
        "ByteTrack, crate trackforge": (42.99, 44.07, 49.12, 174),
        "ByteTrack, supervision 0.26.1": (43.97, 43.77, 50.60, 173),
    },
    "yolox": {
        "ByteTrack, authors' code": (56.28, 66.08, 67.58, 105),
        "BoT-SORT without images, roboflow trackers": (56.78, 65.99, 67.87, 127),
        "OC-SORT, authors' code": (53.79, 62.73, 64.71, 106),
        "C-BIoU, roboflow trackers": (54.06, 65.29, 63.83, 131),
        "SORT, authors' code, age 30": (54.43, 63.22, 65.86, 130),
        "ByteTrack, crate trackforge": (54.99, 65.51, 64.41, 150),
        "ByteTrack, supervision 0.26.1": (54.69, 60.40, 63.47, 225),
    },
}
SEQUENCES_OF_PEERS = {
    "frcnn": {f"MOT17-{number}-FRCNN" for number in ("02", "05", "09", "11")},
    "yolox": {f"MOT17half-{number}-YOLOX" for number in ("02", "05", "09", "11")},
}


def sequences_in(folder):
    return sorted(path.parent for path in folder.glob("*/seqinfo.ini"))


def sets_in(folder):
    """The sequences of each set, by its name."""
    here = sequences_in(folder)
    if here:
        return {folder.resolve().name: here}
    sets = {each.name: sequences_in(each) for each in sorted(folder.iterdir()) if each.is_dir()}
    sets = {name: sequences for name, sequences in sets.items() if sequences}
    if not sets:
        sys.exit(f"bench: {folder} holds no sequences: a sequence is a folder with seqinfo.ini, det/det.txt and gt/gt.txt")
    return sets


def length(sequence):
    info = configparser.ConfigParser()
    info.read(sequence / "seqinfo.ini")
    return info.getint("Sequence", "seqLength")


def track(program, sequences, folder, options):
    folder.mkdir(parents=True)
    for sequence in sequences:
        command = [program, "track", "--format", "mot", *options, sequence, folder / f"{sequence.name}.txt"]
        subprocess.run([str(part) for part in command], check=True, stderr=subprocess.DEVNULL)


def score(sequences, results):
    """HOTA, DetA, AssA, MOTA, IDF1 in percent and identity switches, of each sequence and of all."""
    evaluator = trackeval.Evaluator.get_default_eval_config() | {
        "PRINT_CONFIG": False, "PRINT_RESULTS": False, "TIME_PROGRESS": False, "OUTPUT_SUMMARY": False,
        "OUTPUT_DETAILED": False, "PLOT_CURVES": False, "LOG_ON_ERROR": None, "BREAK_ON_ERROR": True,
    }  # fmt: skip
    data = trackeval.datasets.MotChallenge2DBox.get_default_dataset_config() | {
        "GT_FOLDER": str(sequences[0].parent), "TRACKERS_FOLDER": str(results), "TRACKERS_TO_EVAL": ["picket"],
        "BENCHMARK": "MOT17", "SPLIT_TO_EVAL": "train", "SKIP_SPLIT_FOL": True, "PRINT_CONFIG": False,
        "SEQ_INFO": {sequence.name: length(sequence) for sequence in sequences},
        "GT_LOC_FORMAT": "{gt_folder}/{seq}/gt/gt.txt",
    }  # fmt: skip
    metrics = [
        trackeval.metrics.HOTA(),
        trackeval.metrics.CLEAR({"PRINT_CONFIG": False}),
        trackeval.metrics.Identity({"PRINT_CONFIG": False}),
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        found, _ = trackeval.Evaluator(evaluator).evaluate([trackeval.datasets.MotChallenge2DBox(data)], metrics)
    scores = {}
    for name, value in found["MotChallenge2DBox"]["picket"].items():
        hota, clear, identity = (value["pedestrian"][metric] for metric in ("HOTA", "CLEAR", "Identity"))
        shares = [numpy.mean(hota[part]) for part in ("HOTA", "DetA", "AssA")] + [clear["MOTA"], identity["IDF1"]]
        scores[name] = [*(100 * share for share in shares), int(clear["IDSW"])]
    return scores


def show(name, sequences, scores):
    print(f"\n{name}\n\n| | HOTA | DetA | AssA | MOTA | IDF1 | IDSW |\n|---|---:|---:|---:|---:|---:|---:|")
    for sequence in [*(path.name for path in sequences), "COMBINED_SEQ"]:
        *shares, switches = scores[sequence]
        label = "**Picket, all**" if sequence == "COMBINED_SEQ" else sequence
        print(f"| {label} | {' | '.join(f'{share:.2f}' for share in shares)} | {switches} |")
    if SEQUENCES_OF_PEERS.get(name) == {path.name for path in sequences}:
        for peer, (hota, mota, idf1, switches) in PEERS[name].items():
            print(f"| {peer} | {hota:.2f} | | | {mota:.2f} | {idf1:.2f} | {switches} |")


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--program", type=pathlib.Path, required=True, help="picket-aggregator")
    arguments.add_argument("--mot", type=pathlib.Path, required=True, help="the folder")
    arguments.add_argument("--config", help="a config file whose [track] is used instead of the default")
    options = arguments.parse_args()
    settings = ["--config", options.config] if options.config else []
    for name, sequences in sets_in(options.mot).items():
        with tempfile.TemporaryDirectory() as work:
            results = pathlib.Path(work)
            track(options.program.resolve(), sequences, results / "picket/data", settings)
            show(name, sequences, score(sequences, results))


if __name__ == "__main__":
    main()
