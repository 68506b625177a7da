"""The table of faults names tests that exist."""

import re
import unittest
import unittest.mock

import run

FOLDERS = {
    "picket-edge-agent": "edge-agent",
    "picket-aggregator": "aggregator",
    "picket-tests": "tests",
    "picket-service": "service",
    "picket-wire": "wire",
    "picket-network-camera": "tests/network-camera",
    "picket-faulty-disk": "tests/faulty-disk",
    "picket-fuzz": "fuzz",
}


def source(row):
    """The files in which the row's test may stand."""
    folder = run.REPOSITORY / FOLDERS[row.package]
    if row.target == "lib":
        return (folder / "src").rglob("*.rs")
    return [folder / "tests" / f"{row.target}.rs", *(folder / "tests" / row.target).rglob("*.rs")]


class Table(unittest.TestCase):
    def test_each_row_names_a_test_that_exists(self):
        rows = run.rows(run.TABLE.read_text())
        self.assertGreater(len(rows), 10)
        for row in rows:
            function = re.compile(rf"\bfn {re.escape(row.name.rsplit('::', 1)[-1])}\(")
            with self.subTest(row=row.name):
                files = [path for path in source(row) if path.is_file()]
                self.assertTrue(any(function.search(path.read_text()) for path in files), files)

    def test_a_row_that_cannot_be_read_is_named_by_its_line(self):
        with self.assertRaisesRegex(run.TableError, "faults.md:2: .*torn"):
            run.rows("| Fault | What is shown | Test |\n| torn | nothing |\n")

    def test_a_test_that_does_not_run_has_not_held(self):
        row = run.Row("none", "nothing", "picket-wire", "lib", "no_such_test")
        with unittest.mock.patch.object(run.subprocess, "Popen", no_test):
            held, _ = run.run(row)
        self.assertFalse(held)


class no_test:  # noqa: N801, stands for a class of the library
    """What `cargo test` does when its filter meets nothing: it succeeds."""

    returncode = 0
    stdout = ("test result: ok. 0 passed; 0 failed\n",)

    def __init__(self, *_, **__):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


if __name__ == "__main__":
    unittest.main()
