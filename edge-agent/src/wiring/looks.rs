//! Looks along a camera, each in a task of its own, so that all else goes on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use picket_wire::CameraName;
use picket_wire::status::CameraState;

use super::Agent;
use crate::capture::{CameraAccount, CameraView};
use crate::control::Call;
use crate::detect::look::{Glimpse, Look, Shown};
use crate::look::{Jpeg, LONGEST_S, Pictured, Report};

impl Agent {
    /// Begins to look, and answers when the time is over. Whoever asked may go before: then it ends.
    pub(super) fn look(&self, call: Call, camera: &CameraName, for_s: u64) {
        match self.begin(camera, for_s) {
            Ok((account, look)) => {
                tokio::spawn(along(call, account, look, Duration::from_secs(for_s)));
            }
            Err(why) => call.answer::<Report>(Err(why)),
        }
    }

    fn begin(&self, camera: &CameraName, for_s: u64) -> Result<(Arc<CameraAccount>, Look), String> {
        if !(1..=LONGEST_S).contains(&for_s) {
            return Err(format!("{for_s} seconds: must be 1 to {LONGEST_S}"));
        }
        let (account, eyepiece) =
            self.cameras.to_look_along(camera).ok_or_else(|| self.no_camera(camera))?;
        if let Some(why) = why_not(&account.view()) {
            return Err(format!("camera {camera} {why}"));
        }
        let taken = || {
            format!(
                "somebody looks at camera {camera} already, one at a time: wait for that look's \
                 end, or end it"
            )
        };
        let look = eyepiece.look().ok_or_else(taken)?;
        Ok((account, look))
    }
}

async fn along(mut call: Call, account: Arc<CameraAccount>, look: Look, time: Duration) {
    let (began, before) = (Instant::now(), account.view());
    tokio::select! {
        () = tokio::time::sleep(time) => {}
        () = call.gone() => return,
    }
    let (glimpse, after) = (look.end(), account.view());
    call.answer(match why_not(&after).filter(|_| glimpse.shown.is_none()) {
        Some(why) => Err(format!("camera {} {why}", account.camera())),
        None => Ok(report(glimpse, &before, after, began.elapsed())),
    });
}

/// Why nothing is to be seen of it, and what to do.
fn why_not(view: &CameraView) -> Option<String> {
    let problem = view.problem.as_deref().unwrap_or("the log says why");
    match view.state {
        CameraState::Opening | CameraState::Running => None,
        CameraState::Paused => {
            let how = view.problem.as_deref().unwrap_or("paused");
            Some(format!("is {how}: look when it captures again (`resume` ends a pause)"))
        }
        CameraState::Failed if view.gave_up => {
            Some(format!("has failed: {problem}. Mend that, and restart the agent"))
        }
        CameraState::Failed if view.broke_off => {
            Some(format!("has failed: {problem}. Only a restart of the agent opens it again"))
        }
        CameraState::Failed => Some(format!(
            "has failed: {problem}. It is opened again and again: look when that is mended"
        )),
        CameraState::Stuck => Some(format!(
            "is stuck in its driver: {problem}. It is opened again beside each thread that hangs \
             there; when three do, only after one came back. If that does not help, cut the \
             camera's power for a moment, or restart the machine"
        )),
        CameraState::Ended => {
            let how = view.problem.as_deref().unwrap_or("was read to its end");
            Some(format!("gives no more pictures: {how}. A look needs a camera that still runs"))
        }
    }
}

fn report(glimpse: Glimpse, before: &CameraView, after: CameraView, time: Duration) -> Report {
    let seconds = time.as_secs_f32();
    // A camera that was changed meanwhile counts from 0 again.
    let rate = |from: u64, to: u64| to.saturating_sub(from) as f32 / seconds;
    let captured_fps = rate(before.captured, after.captured);
    let nothing = match glimpse.failed {
        Some(why) => why,
        None if glimpse.changed => {
            "the camera was changed meanwhile, and no picture was made of it since: look again"
                .to_owned()
        }
        None if captured_fps > 0.0 => {
            "no frame was looked at, since the detector is behind or what it gives is not taken: \
             the log and `doctor` say more"
                .to_owned()
        }
        None => format!("no frame was captured in {seconds:.0} s: look for longer, with --seconds"),
    };
    Report {
        seconds,
        given_fps: rate(before.decoded, after.decoded),
        captured_fps,
        looked_at_fps: rate(0, glimpse.looked_at),
        still_fps: rate(0, glimpse.still),
        skipped_fps: rate(before.skipped, after.skipped),
        looked_at: glimpse.looked_at,
        with_found: glimpse.with_found,
        decoder: after.decoder,
        decoder_reason: after.decoder_reason,
        degraded: after.degraded,
        problem: after.problem,
        picture: after.picture,
        pictured: glimpse.shown.map(pictured).ok_or(nothing),
    }
}

fn pictured(shown: Shown) -> Pictured {
    let Shown { at, size_px, brightness, sharpness, found, picture } = shown;
    let jpeg = picture.map(|(jpeg, redacted)| Jpeg {
        base64: STANDARD.encode(jpeg),
        redacted: redacted.to_owned(),
    });
    let age_s = at.elapsed().as_secs_f32();
    Pictured { age_s, size_px, brightness, sharpness, found, jpeg }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::{Duty, Life};
    use crate::detect::Eyepiece;
    use picket_wire::status::PictureState;

    fn account() -> Arc<CameraAccount> {
        let duty = Arc::new(Duty::new(Vec::new(), jiff::tz::TimeZone::UTC, None));
        Life::new("north".parse().unwrap(), duty).account
    }

    #[test]
    fn a_camera_whose_thread_broke_off_is_not_said_to_be_opened_again() {
        let account = account();
        account.broke_off();
        let said = why_not(&account.view()).unwrap();
        assert!(said.contains("the log says where"), "{said}");
        assert!(said.contains("Only a restart of the agent"), "{said}");
        assert!(!said.contains("again and again"), "{said}");
    }

    #[test]
    fn the_age_of_the_picture_and_what_the_pictures_look_like_are_reported() {
        let before = account().view();
        let after = CameraView { picture: Some(PictureState::Frozen), ..before.clone() };
        let at = Instant::now().checked_sub(Duration::from_secs(5)).unwrap();
        let (found, picture) = (Vec::new(), Err("none".to_owned()));
        let shown =
            Shown { at, size_px: (64, 48), brightness: 0.0, sharpness: 0.0, found, picture };
        let mut glimpse = Eyepiece::default().look().unwrap().end();
        glimpse.shown = Some(shown);
        let report = report(glimpse, &before, after, Duration::from_secs(6));
        assert_eq!(report.picture, Some(PictureState::Frozen));
        assert!((5.0..60.0).contains(&report.pictured.unwrap().age_s));
    }

    #[test]
    fn a_look_without_a_picture_since_the_camera_was_changed_says_so() {
        let view = account().view();
        let mut glimpse = Eyepiece::default().look().unwrap().end();
        glimpse.changed = true;
        let report = report(glimpse, &view, view.clone(), Duration::from_secs(1));
        let why = report.pictured.unwrap_err();
        assert!(why.contains("was changed meanwhile"), "{why}");
    }

    #[test]
    fn a_camera_that_shows_nothing_is_told_with_what_to_do() {
        let fresh = account().view();
        let said = |state, problem: &str, gave_up| {
            why_not(&CameraView {
                state,
                problem: (!problem.is_empty()).then(|| problem.to_owned()),
                gave_up,
                ..fresh.clone()
            })
        };
        for state in [CameraState::Opening, CameraState::Running] {
            assert_eq!(said(state, "silent", false), None);
        }
        for (state, problem, gave_up, parts) in [
            (CameraState::Paused, "outside its schedule", false, ["is outside", "`resume`"]),
            (CameraState::Failed, "no such device", false, ["no such device", "again and again"]),
            (CameraState::Failed, "no such file", true, ["no such file", "restart the agent"]),
            (
                CameraState::Stuck,
                "nothing was heard",
                false,
                ["nothing was heard", "when three do"],
            ),
            (CameraState::Ended, "", false, ["read to its end", "still runs"]),
            (CameraState::Ended, "taken out of the config", false, ["taken out", "still runs"]),
        ] {
            let said = said(state, problem, gave_up).unwrap();
            assert!(parts.iter().all(|part| said.contains(part)), "{said}");
        }
    }
}
