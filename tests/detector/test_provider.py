"""What counts as a provider's mismatch."""

import unittest

from provider import Comparison

THRESHOLD = 0.6


def frame(*things, number=0):
    found = [{"class": "face", "box": list(box), "score": score} for box, score in things]
    return {"frame": number, "detections": found}


HERE, THERE = (10.0, 10.0, 40.0, 50.0), (100.0, 10.0, 40.0, 50.0)


def compared(ours, expected):
    return Comparison(THRESHOLD).videos(ours, expected)


class Provider(unittest.TestCase):
    def test_boxes_within_the_tolerance_hold_in_any_order(self):
        close = (10.4, 10.0, 39.5, 50.0)
        both = compared([frame((THERE, 0.9), (close, 0.895))], [frame((HERE, 0.9), (THERE, 0.9))])
        self.assertTrue(both.holds(), both.mismatches)
        self.assertAlmostEqual(both.box_px, 0.5)
        self.assertAlmostEqual(both.score, 0.005)

    def test_a_box_that_moved_is_a_mismatch_of_both_sides(self):
        both = compared([frame(((12.0, 10.0, 40.0, 50.0), 0.9))], [frame((HERE, 0.9))])
        self.assertEqual(len(both.mismatches), 2)
        self.assertFalse(both.holds())

    def test_another_score_or_class_is_a_mismatch(self):
        self.assertFalse(compared([frame((HERE, 0.8))], [frame((HERE, 0.9))]).holds())
        other = frame((HERE, 0.9))
        other["detections"][0]["class"] = "plate"
        self.assertFalse(compared([other], [frame((HERE, 0.9))]).holds())

    def test_what_one_alone_finds_is_a_mismatch_unless_it_is_barely_sure_enough(self):
        sure, barely = (THERE, 0.7), (THERE, 0.61)
        common = (HERE, 0.9)
        for ours, expected in ([common, sure], [common]), ([common], [common, sure]):
            self.assertFalse(compared([frame(*ours)], [frame(*expected)]).holds())
        for ours, expected in ([common, barely], [common]), ([common], [common, barely]):
            both = compared([frame(*ours)], [frame(*expected)])
            self.assertTrue(both.holds(), both.mismatches)
            self.assertEqual(both.borderline, 1)

    def test_a_lost_frame_is_a_mismatch_and_a_video_without_anything_shows_nothing(self):
        one, two = frame((HERE, 0.9)), frame((HERE, 0.9), number=1)
        self.assertFalse(compared([one], [one, two]).holds())
        self.assertFalse(compared([frame()], [frame()]).holds())


if __name__ == "__main__":
    unittest.main()
