//! What is reported of what was found: zones and least sizes. Pure.

use picket_wire::observation::Detection;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::region::{self, Region};
use super::settings::OutOfRange;

/// What is reported of a camera's detections. What is not is counted, and leaves no other trace.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReportSettings {
    /// Least height of a detection, as a share of the picture's height, 0 to 1.
    #[serde(default)]
    pub least_height: f32,
    /// Parts of the picture. A detection is reported if its middle lies in no zone of the kind
    /// `exclude`, and in one of the kind `include` if there are any.
    #[serde(default)]
    pub zone: Vec<Zone>,
}

/// A part of the picture in which detections are reported, or are not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Zone {
    /// What it is called in messages to people.
    pub name: String,
    /// Whether what lies in it is reported.
    pub kind: ZoneKind,
    /// Its corners in order, each x and y as shares of the picture's width and height: 0, 0 is the
    /// upper left corner and 1, 1 the lower right one.
    pub polygon: Vec<[f32; 2]>,
    /// Of the kind `include`: least height in this zone, instead of the camera's.
    #[serde(default)]
    pub least_height: Option<f32>,
}

/// Whether what lies in a zone is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ZoneKind {
    /// It is, and what lies in no zone of this kind is not.
    Include,
    /// It is not.
    Exclude,
}

/// Why a detection is not reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreported {
    /// It lies where nothing is reported.
    Zone,
    /// It is too small.
    Size,
}

impl Unreported {
    /// As the metric says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Zone => "zone",
            Self::Size => "size",
        }
    }
}

impl ReportSettings {
    /// Refuses what cannot work.
    pub fn check(&self) -> Result<(), OutOfRange> {
        let refuse = |field, value: String, range| Err(OutOfRange { field, value, range });
        let heights = self.zone.iter().filter_map(|zone| zone.least_height);
        for height in heights.chain([self.least_height]) {
            if !(0.0..=1.0).contains(&height) {
                return refuse("report.least_height", height.to_string(), "0 to 1");
            }
        }
        if let Some(zone) = self
            .zone
            .iter()
            .find(|zone| zone.kind == ZoneKind::Exclude && zone.least_height.is_some())
        {
            let range = "left out of a zone of the kind `exclude`";
            return refuse("report.zone.least_height", zone.name.clone(), range);
        }
        match region::problem(&self.zone.iter().map(Zone::region).collect::<Vec<_>>()) {
            Some((value, range)) => refuse("report.zone", value, range),
            None => Ok(()),
        }
    }
}

impl Zone {
    fn region(&self) -> Region {
        Region { name: self.name.clone(), polygon: self.polygon.clone() }
    }
}

/// The rules of one camera.
pub struct Report {
    least_height: f32,
    zones: Vec<(Region, ZoneKind, Option<f32>)>,
}

impl Report {
    /// By these settings.
    pub fn new(settings: &ReportSettings) -> Self {
        let zones = settings.zone.iter();
        let zones = zones.map(|zone| (zone.region(), zone.kind, zone.least_height)).collect();
        Self { least_height: settings.least_height, zones }
    }

    /// Why a detection in a frame of this size is not reported; `None` if it is.
    pub fn refuses(
        &self,
        detection: &Detection,
        (width, height): (u32, u32),
    ) -> Option<Unreported> {
        let [x, y, box_width, box_height] = detection.box_px;
        let middle = [(x + box_width / 2.0) / width as f32, (y + box_height / 2.0) / height as f32];
        let share = box_height / height as f32;
        let zones_around = |kind| {
            let around =
                move |(region, of, _): &&(Region, _, _)| *of == kind && region.contains(middle);
            self.zones.iter().filter(around)
        };
        if zones_around(ZoneKind::Exclude).next().is_some() {
            return Some(Unreported::Zone);
        }
        if self.zones.iter().all(|(_, kind, _)| *kind == ZoneKind::Exclude) {
            return (share < self.least_height).then_some(Unreported::Size);
        }
        // Of zones that overlap, the one that asks least decides.
        let least = zones_around(ZoneKind::Include)
            .map(|(_, _, least)| least.unwrap_or(self.least_height))
            .min_by(f32::total_cmp);
        match least {
            None => Some(Unreported::Zone),
            Some(least) => (share < least).then_some(Unreported::Size),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME_PX: (u32, u32) = (200, 100);

    fn zone(kind: ZoneKind, [left, right]: [f32; 2], least_height: Option<f32>) -> Zone {
        let polygon = vec![[left, 0.0], [right, 0.0], [right, 1.0], [left, 1.0]];
        Zone { name: "door".to_owned(), kind, polygon, least_height }
    }

    /// A box 10 wide around this column, so high.
    fn refuses(settings: &ReportSettings, middle_x: f32, height: f32) -> Option<Unreported> {
        let detection = Detection {
            box_px: [middle_x - 5.0, 40.0, 10.0, height],
            score: 0.9,
            class: "face".to_owned(),
            landmarks: Vec::new(),
            quality: None,
        };
        Report::new(settings).refuses(&detection, FRAME_PX)
    }

    #[test]
    fn without_zones_only_the_size_counts() {
        let settings = ReportSettings { least_height: 0.1, zone: Vec::new() };
        assert_eq!(refuses(&settings, 50.0, 10.0), None);
        assert_eq!(refuses(&settings, 50.0, 9.9), Some(Unreported::Size));
        assert_eq!(refuses(&ReportSettings::default(), 50.0, 0.1), None);
    }

    #[test]
    fn what_is_excluded_is_not_reported_wherever_else_it_lies() {
        let zone = vec![
            zone(ZoneKind::Include, [0.0, 0.5], None),
            zone(ZoneKind::Exclude, [0.25, 1.0], None),
        ];
        let settings = ReportSettings { least_height: 0.0, zone };
        assert_eq!(refuses(&settings, 20.0, 20.0), None);
        assert_eq!(refuses(&settings, 80.0, 20.0), Some(Unreported::Zone));
        assert_eq!(refuses(&settings, 150.0, 20.0), Some(Unreported::Zone));
    }

    #[test]
    fn with_one_zone_included_the_rest_is_not_reported() {
        let zone = vec![zone(ZoneKind::Include, [0.0, 0.5], None)];
        let settings = ReportSettings { least_height: 0.0, zone };
        assert_eq!(refuses(&settings, 99.0, 20.0), None);
        assert_eq!(refuses(&settings, 101.0, 20.0), Some(Unreported::Zone));
    }

    #[test]
    fn a_zone_may_ask_for_another_size_than_the_camera() {
        let zone = vec![
            zone(ZoneKind::Include, [0.0, 0.5], Some(0.3)),
            zone(ZoneKind::Include, [0.5, 1.0], None),
        ];
        let settings = ReportSettings { least_height: 0.1, zone };
        assert_eq!(refuses(&settings, 50.0, 20.0), Some(Unreported::Size));
        assert_eq!(refuses(&settings, 50.0, 31.0), None);
        assert_eq!(refuses(&settings, 150.0, 20.0), None);
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let with = |zone| ReportSettings { least_height: 0.0, zone: vec![zone] };
        for (settings, field) in [
            (ReportSettings { least_height: 1.5, zone: Vec::new() }, "report.least_height"),
            (with(zone(ZoneKind::Include, [0.0, 0.5], Some(-0.1))), "report.least_height"),
            (with(zone(ZoneKind::Exclude, [0.0, 0.5], Some(0.1))), "report.zone.least_height"),
            (with(zone(ZoneKind::Exclude, [0.0, 0.0], None)), "report.zone"),
        ] {
            assert_eq!(settings.check().unwrap_err().field, field);
        }
    }
}
