//! Documents of devices.

use mongodb::bson::Document;
use picket_wire::status::Status;

use crate::store::documents::{DeviceDocument, Ingest, collection};
use crate::store::{StoreError, encode};

/// A heartbeat as a document. Fails for a number that BSON cannot hold.
pub fn device(status: &Status, ingest: Ingest) -> Result<DeviceDocument, StoreError> {
    let body: Document = encode(collection::DEVICES, status)?;
    Ok(DeviceDocument { id: status.device.to_string(), status: body, ingest })
}
