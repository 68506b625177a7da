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


def places(row):
    """The files in which the row's test may stand, each with the modules that its path stands for."""
    folder = run.REPOSITORY / FOLDERS[row.package]
    root, single = (folder / "src", None) if row.target == "lib" else (
        folder / "tests" / row.target, folder / "tests" / f"{row.target}.rs")
    if single and single.is_file():
        yield single, []
    for path in root.rglob("*.rs"):
        modules = list(path.relative_to(root).with_suffix("").parts)
        yield path, modules[:-1] if modules[-1] in ("mod", "lib", "main") else modules


def holds(row, text, modules):
    """Whether this file has the test under its whole name, by which the runner asks for it: its path, the
    modules within the file, the function."""
    *named, function = row.name.split("::")
    within = named[len(modules):]
    return (
        named[: len(modules)] == modules
        and all(re.search(rf"\bmod {re.escape(name)} \{{", text) for name in within)
        and re.search(rf"\bfn {re.escape(function)}\(", text) is not None
    )


class Table(unittest.TestCase):
    def test_each_row_names_a_test_that_exists(self):
        rows = run.rows(run.TABLE.read_text())
        self.assertGreater(len(rows), 10)
        for row in rows:
            with self.subTest(row=row.name):
                self.assertTrue(any(holds(row, path.read_text(), modules) for path, modules in places(row)))

    def test_a_test_is_named_with_the_modules_that_it_stands_in(self):
        row = run.Row("none", "nothing", "picket-wire", "lib", "a::tests::claim")
        self.assertTrue(holds(row, "mod tests { fn claim() }", ["a"]))
        self.assertTrue(holds(row, "fn claim()", ["a", "tests"]))
        for text, modules in [("fn claim()", ["a"]), ("mod tests { fn claim() }", ["b"])]:
            self.assertFalse(holds(row, text, modules))
        self.assertFalse(holds(row._replace(name="claim"), "mod tests { fn claim() }", ["a"]))

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
