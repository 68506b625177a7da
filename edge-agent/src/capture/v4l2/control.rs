//! A camera's settings: what they are called, and whether a value fits.

use serde::Serialize;

use super::settings::ControlValue;

/// A setting of a camera.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Control {
    /// The driver's number for it.
    pub id: u32,
    /// What the driver calls it, such as `White Balance, Automatic`.
    pub title: String,
    /// What it takes.
    pub nature: Nature,
    /// The least value.
    pub least: i64,
    /// The greatest value.
    pub most: i64,
    /// From one value to the next.
    pub step: u64,
    /// Its value after power on.
    pub default: i64,
    /// Its value now, if the camera says.
    pub value: Option<i64>,
}

/// What a setting takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nature {
    /// A number.
    Number,
    /// On or off.
    Switch,
    /// One of these.
    List(Vec<(i64, String)>),
    /// Something that is done once.
    Button,
    /// Something else, which cannot be set from here.
    Other,
}

impl Control {
    /// What the config calls it: as `v4l2-ctl` writes it, such as `white_balance_automatic`.
    pub fn name(&self) -> String {
        snake_case(&self.title)
    }

    /// What it takes, in words.
    pub fn takes(&self) -> String {
        match &self.nature {
            Nature::Number if self.step > 1 => {
                format!("{} to {} in steps of {}", self.least, self.most, self.step)
            }
            Nature::Number => format!("{} to {}", self.least, self.most),
            Nature::Switch => "true or false".to_owned(),
            Nature::List(items) => {
                let items =
                    items.iter().map(|(number, item)| format!("{number} ({})", snake_case(item)));
                items.collect::<Vec<_>>().join(", ")
            }
            Nature::Button => "true, to press it".to_owned(),
            Nature::Other => "nothing that the config can say".to_owned(),
        }
    }

    /// Its value now, as the config would say it.
    pub fn now(&self) -> Option<String> {
        let value = self.value?;
        let item = match &self.nature {
            Nature::Switch => return Some((value != 0).to_string()),
            Nature::List(items) => items.iter().find(|(number, _)| *number == value),
            _ => None,
        };
        Some(item.map_or_else(|| value.to_string(), |(_, item)| snake_case(item)))
    }

    fn number_of(&self, value: &ControlValue) -> Option<i64> {
        match (&self.nature, value) {
            (Nature::Number, ControlValue::Number(number)) => {
                let inside = (self.least..=self.most).contains(number);
                let on_grid = number.abs_diff(self.least).is_multiple_of(self.step.max(1));
                (inside && on_grid).then_some(*number)
            }
            (Nature::Switch, ControlValue::Switch(on)) => Some((*on).into()),
            (Nature::Switch, ControlValue::Number(number @ 0..=1)) => Some(*number),
            (Nature::Button, ControlValue::Switch(true)) => Some(1),
            (Nature::List(items), ControlValue::Number(number)) => {
                items.iter().any(|(item, _)| item == number).then_some(*number)
            }
            (Nature::List(items), ControlValue::Item(name)) => {
                let named = |(_, item): &&(i64, String)| snake_case(item) == snake_case(name);
                items.iter().find(named).map(|(number, _)| *number)
            }
            _ => None,
        }
    }
}

/// A setting that is right, to be handed to the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// What it is called.
    pub name: String,
    /// The driver's number for it.
    pub id: u32,
    /// Its new value.
    pub value: i32,
}

/// Sorts what the config asks for into what can be set, in the order in which to do it, and what is
/// wrong with the rest.
///
/// Switches and lists first: they decide whether a number is the camera's or the user's, such as
/// `auto_exposure` does of `exposure_time_absolute`, and a camera refuses a number that is its own.
pub fn settings<'a>(
    asked: impl IntoIterator<Item = (&'a String, &'a ControlValue)>,
    controls: &[Control],
) -> (Vec<Setting>, Vec<String>) {
    let (mut switches, mut numbers, mut problems) = (Vec::new(), Vec::new(), Vec::new());
    for (name, value) in asked {
        let Some(control) = controls.iter().find(|control| control.name() == *name) else {
            problems.push(format!(
                "controls.{name}: the camera has none of that name; {}",
                named(controls)
            ));
            continue;
        };
        let number = control.number_of(value).and_then(|number| i32::try_from(number).ok());
        let Some(value) = number else {
            let (value, takes) = (shown(value), control.takes());
            problems.push(format!("controls.{name} = {value}: it takes {takes}"));
            continue;
        };
        let setting = Setting { name: name.clone(), id: control.id, value };
        match control.nature {
            Nature::Switch | Nature::List(_) => switches.push(setting),
            _ => numbers.push(setting),
        }
    }
    switches.extend(numbers);
    (switches, problems)
}

fn named(controls: &[Control]) -> String {
    let settable = controls.iter().filter(|control| control.nature != Nature::Other);
    let names: Vec<_> = settable.map(Control::name).collect();
    match names.as_slice() {
        [] => "it has no settings at all".to_owned(),
        names => format!("it has {}", names.join(", ")),
    }
}

fn shown(value: &ControlValue) -> String {
    match value {
        ControlValue::Switch(on) => on.to_string(),
        ControlValue::Number(number) => number.to_string(),
        ControlValue::Item(name) => format!("{name:?}"),
    }
}

fn snake_case(title: &str) -> String {
    let words = title.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(title: &str, nature: Nature, least: i64, most: i64, step: u64) -> Control {
        let (id, title) = (title.len() as u32, title.to_owned());
        Control { id, title, nature, least, most, step, default: least, value: None }
    }

    /// As a C920 answers on Linux 6.1, lists with their gaps.
    fn c920() -> Vec<Control> {
        let exposure =
            vec![(1, "Manual Mode".to_owned()), (3, "Aperture Priority Mode".to_owned())];
        vec![
            control("Brightness", Nature::Number, 0, 255, 1),
            control("White Balance, Automatic", Nature::Switch, 0, 1, 1),
            control("Auto Exposure", Nature::List(exposure), 0, 3, 1),
            control("Exposure Time, Absolute", Nature::Number, 3, 2047, 1),
            control("Focus, Absolute", Nature::Number, 0, 250, 5),
        ]
    }

    fn set(asked: &str) -> (Vec<(String, i32)>, Vec<String>) {
        #[derive(serde::Deserialize)]
        struct Asked {
            controls: std::collections::BTreeMap<String, ControlValue>,
        }
        let asked: Asked = toml::from_str(&format!("controls = {{ {asked} }}")).unwrap();
        let (settings, problems) = settings(&asked.controls, &c920());
        (settings.into_iter().map(|setting| (setting.name, setting.value)).collect(), problems)
    }

    #[test]
    fn what_a_camera_has_is_set_by_its_name_switches_before_numbers() {
        let (settings, problems) = set(
            "brightness = 128, exposure_time_absolute = 300, auto_exposure = \"manual_mode\", \
             white_balance_automatic = false",
        );
        let expected = [
            ("auto_exposure", 1),
            ("white_balance_automatic", 0),
            ("brightness", 128),
            ("exposure_time_absolute", 300),
        ];
        assert_eq!(settings, expected.map(|(name, value)| (name.to_owned(), value)));
        assert!(problems.is_empty(), "{problems:?}");
    }

    #[test]
    fn what_it_lacks_or_refuses_is_named_with_what_would_be_right_and_the_rest_is_set() {
        let (settings, problems) =
            set("brightnes = 1, brightness = 256, auto_exposure = 2, focus_absolute = 7, \
             white_balance_automatic = true");
        assert_eq!(settings, [("white_balance_automatic".to_owned(), 1)]);
        let all = problems.join("\n");
        for part in [
            "controls.brightnes: the camera has none of that name; it has brightness, white_balance_automatic, auto_exposure",
            "controls.brightness = 256: it takes 0 to 255",
            "controls.auto_exposure = 2: it takes 1 (manual_mode), 3 (aperture_priority_mode)",
            "controls.focus_absolute = 7: it takes 0 to 250 in steps of 5",
        ] {
            assert!(all.contains(part), "{part}\nnot in\n{all}");
        }
    }
}
