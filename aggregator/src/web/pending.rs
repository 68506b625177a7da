//! What changed since the viewers were last told. Many changes of one thing become one event, so that
//! a camera of 60 frames per second costs a viewer no more than ten pictures a second. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use mongodb::bson::{Document, deserialize_from_document};
use picket_wire::{CameraKey, ObservationId};
use serde::Serialize;

use super::books::{BooksRow, BooksTable};
use super::fleet::Fleet;
use super::pairing::{Pairing, Position};
use super::views::{CameraView, DeviceView, NewestView, PictureView, TrackView};
use crate::store::documents::{
    CameraDocument, DeviceDocument, FrameDocument, ObservationDocument, TrackDocument, collection,
};
use crate::upsert::TrackState;

/// Most tracks that change between two flushes; beyond it, viewers read the newest anew.
const MOST_TRACKS: usize = 2000;

/// What is new of a camera; what is not, is left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CameraUpdate {
    /// `<device>/<camera>`.
    pub key: String,
    /// Newest observation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newest: Option<NewestView>,
    /// Newest picture, with its boxes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub picture: Option<PictureView>,
    /// Epoch in which it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<String>,
    /// Up to this `seq` of the epoch all is accounted for and tracks are final; sent with what follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub complete_until: Option<i64>,
    /// Since when something has been missing; absent if nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_since: Option<Timestamp>,
    /// By how much the device's clock is ahead of the broker's; absent if that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock_ahead_ms: Option<i64>,
}

/// Something that viewers are told.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Update {
    /// A camera has something new.
    Camera(Box<CameraUpdate>),
    /// A device sent a status.
    Device(Box<DeviceView>),
    /// A track began, went on or ended.
    Track(Box<TrackView>),
    /// A track was replaced or expired.
    TrackGone {
        /// Which one.
        id: String,
    },
    /// A camera's books changed.
    Books(Box<BooksRow>),
    /// Too much changed: read everything anew.
    Resync {},
}

impl Update {
    /// Name of the event.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Camera(_) => "camera",
            Self::Device(_) => "device",
            Self::Track(_) => "track",
            Self::TrackGone { .. } => "track-gone",
            Self::Books(_) => "books",
            Self::Resync {} => "resync",
        }
    }
}

/// A document that could not be read as what its collection holds.
#[derive(Debug, thiserror::Error)]
#[error("a document of {collection} cannot be read")]
pub struct Unreadable {
    collection: String,
    #[source]
    source: mongodb::bson::error::Error,
}

/// Changes that the viewers have not been told of.
#[derive(Debug, Default)]
pub struct Pending {
    pairing: Pairing,
    newest: BTreeMap<CameraKey, Position>,
    table: BooksTable,
    cameras: BTreeMap<CameraKey, CameraUpdate>,
    devices: BTreeMap<String, DeviceView>,
    tracks: BTreeMap<String, Option<TrackView>>,
    books: BTreeMap<String, BooksRow>,
    flooded: bool,
}

impl Pending {
    /// Begins where a reader of the whole fleet stands.
    pub fn after(fleet: Fleet) -> Self {
        let mut pending = Self::default();
        for camera in &fleet.cameras {
            if let Some(picture) = &camera.picture {
                pending.pairing.seed(picture);
            }
            let newest = camera.newest.as_ref().and_then(|n| {
                let id: ObservationId = n.id.parse().ok()?;
                Some((id.key.clone(), Position::of(&id, n.captured_at, &n.clock)))
            });
            pending.newest.extend(newest);
        }
        pending.table = fleet.books;
        pending
    }

    /// A document of a collection was written.
    pub fn written(&mut self, name: &str, document: Document) -> Result<(), Unreadable> {
        let unreadable = |source| Unreadable { collection: name.to_owned(), source };
        let is_a = |kind| document.get_str("kind").is_ok_and(|k| k == kind);
        match name {
            // Skips, gaps and the like share the collection; they have no picture.
            collection::OBSERVATIONS if is_a("observation") => {
                self.observation(&deserialize_from_document(document).map_err(unreadable)?);
            }
            collection::FRAMES if is_a("frame") => {
                self.picture(&deserialize_from_document(document).map_err(unreadable)?);
            }
            collection::TRACKS => {
                self.track(&deserialize_from_document(document).map_err(unreadable)?);
            }
            collection::DEVICES => {
                self.device(&deserialize_from_document(document).map_err(unreadable)?);
            }
            collection::CAMERAS => {
                self.camera(&deserialize_from_document(document).map_err(unreadable)?);
            }
            _ => {}
        }
        Ok(())
    }

    /// A document was deleted.
    pub fn deleted(&mut self, name: &str, id: &str) {
        if name == collection::TRACKS {
            self.tracks.insert(id.to_owned(), None);
            self.bound_tracks();
        }
    }

    /// An observation that came by the feed, or was looked up.
    pub fn observation(&mut self, document: &ObservationDocument) {
        let Ok(id) = document.id.parse::<ObservationId>() else { return };
        let Some(view) = PictureView::of(document) else { return };
        let position = Position::of(&id, view.captured_at, &view.clock);
        let newest = self.newest.get(&id.key);
        // The newest itself may come again, with its right time.
        if newest.is_none_or(|newest| position.is_newer_than(newest) || newest.is_of(&id)) {
            self.newest.insert(id.key.clone(), position);
            self.update(&id.key).newest = Some(document.into());
        }
        let may_have_picture = document.frame != "withheld";
        let shown = self.pairing.observation(&id, view, may_have_picture);
        self.show(&id.key, shown);
    }

    fn picture(&mut self, document: &FrameDocument) {
        let Ok(id) = document.observation.parse::<ObservationId>() else { return };
        let shown = self.pairing.picture(&id);
        self.show(&id.key, shown);
    }

    fn show(&mut self, key: &CameraKey, picture: Option<PictureView>) {
        if picture.is_some() {
            self.update(key).picture = picture;
        }
    }

    fn update(&mut self, key: &CameraKey) -> &mut CameraUpdate {
        self.cameras
            .entry(key.clone())
            .or_insert_with(|| CameraUpdate { key: key.to_string(), ..CameraUpdate::default() })
    }

    fn track(&mut self, document: &TrackDocument) {
        let is_replaced = document.state == TrackState::Replaced.as_str();
        self.tracks.insert(document.id.clone(), (!is_replaced).then(|| document.into()));
        self.bound_tracks();
    }

    fn bound_tracks(&mut self) {
        if self.tracks.len() > MOST_TRACKS {
            self.tracks.clear();
            self.flooded = true;
        }
    }

    fn device(&mut self, document: &DeviceDocument) {
        let view = DeviceView::from(document);
        for (key, status) in view.cameras() {
            if let Some(as_of) = view.status_at {
                let row = self.table.set_device(&key, &status.books, as_of);
                self.books.insert(row.camera.clone(), row);
            }
        }
        self.devices.insert(view.device.clone(), view);
    }

    fn camera(&mut self, document: &CameraDocument) {
        let Ok(key) = document.id.parse::<CameraKey>() else { return };
        let row = self.table.set_centre(&key, &document.accounts);
        self.books.insert(row.camera.clone(), row);
        let (update, view) = (self.update(&key), CameraView::of(document, &key));
        (update.epoch, update.complete_until) = (view.epoch, view.complete_until);
        (update.waiting_since, update.clock_ahead_ms) = (view.waiting_since, view.clock_ahead_ms);
    }

    /// Observations to look up: their pictures are here and they are not.
    pub fn take_wanted(&mut self) -> Vec<String> {
        self.pairing.take_wanted()
    }

    /// What to tell the viewers now.
    pub fn take(&mut self) -> Vec<Update> {
        let mut updates = Vec::new();
        let cameras = std::mem::take(&mut self.cameras).into_values();
        updates.extend(cameras.map(|update| Update::Camera(Box::new(update))));
        let devices = std::mem::take(&mut self.devices).into_values();
        updates.extend(devices.map(|view| Update::Device(Box::new(view))));
        let tracks = std::mem::take(&mut self.tracks).into_iter();
        updates.extend(tracks.map(|(id, view)| match view {
            Some(view) => Update::Track(Box::new(view)),
            None => Update::TrackGone { id },
        }));
        let books = std::mem::take(&mut self.books).into_values();
        updates.extend(books.map(|row| Update::Books(Box::new(row))));
        if std::mem::take(&mut self.flooded) {
            updates.push(Update::Resync {});
        }
        updates
    }
}
