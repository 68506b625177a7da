"""Each fault can be put in, and names a test that exists."""

import unittest

import run

FOLDERS = {"picket-edge-agent": "edge-agent", "picket-aggregator": "aggregator"}


class Table(unittest.TestCase):
    def test_each_fault_can_be_put_in_and_its_test_exists(self):
        mutants = run.mutants(run.TABLE.read_text())
        self.assertGreater(len(mutants), 5)
        self.assertEqual(len({mutant.name for mutant in mutants}), len(mutants))
        for mutant in mutants:
            with self.subTest(fault=mutant.fault):
                source = (run.REPOSITORY / mutant.file).read_text()
                self.assertNotEqual(run.mutated(source, mutant), source)
                package, target, name = mutant.test.split("::", 2)
                folder = run.REPOSITORY / FOLDERS[package] / ("src" if target == "lib" else "tests")
                function = f"fn {name.rsplit('::', 1)[-1]}("
                self.assertTrue(any(function in path.read_text() for path in folder.rglob("*.rs")), function)

    def test_a_fault_whose_place_is_gone_is_named(self):
        mutant = run.Mutant("name", "a fault", "a/file.rs", "gone", "", "a::b::c")
        with self.assertRaisesRegex(run.MutantError, "a/file.rs has 'gone' 0 times"):
            run.mutated("fn main() {}", mutant)


if __name__ == "__main__":
    unittest.main()
