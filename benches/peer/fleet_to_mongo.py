"""A fleet's observations from Kafka to MongoDB: the consumer that people would write instead of the centre.

It reads the topic of observations, follows the faces of each camera with supervision's ByteTrack, and stores
each observation with its tracks, and a summary of each track, under the ids and with the fields of the
centre. It has no ledger, no accounts and no checkpoints of its trackers: after a crash the tracks begin anew,
and what came late is tracked in the order in which it came.

Chosen as somebody who knows these libraries would, each by measuring:
- `consume` for many messages at a time, and orjson for their bodies.
- One `bulk_write` a batch for each collection, unordered; writes are upserts by `_id`, so that a batch that
  is read again changes nothing; a majority has them in its journal before the offsets are committed.
- A thread writes one batch while the next one is tracked: pymongo waits without Python's lock.
- A tracker for each camera, with the camera's frame rate.
"""

import argparse
import collections
import concurrent.futures
import datetime
import hashlib
import signal
import time
import warnings

import confluent_kafka
import numpy as np
import orjson
import pymongo

warnings.filterwarnings("ignore")  # That ByteTrack moves to a package of its own, and that OpenCV is missing.
from supervision import Detections  # noqa: E402
from supervision.tracker.byte_tracker.core import ByteTrack  # noqa: E402

BATCH, WAIT_S = 1000, 0.05
KEPT = datetime.timedelta(days=30)


class Camera:
    """A tracker, and what is known of the tracks that it follows."""

    def __init__(self, fps):
        self.tracker = ByteTrack(frame_rate=fps)
        self.tracks = collections.OrderedDict()

    def follow(self, observation, captured_at):
        """The track of each detection; what changed of the tracks."""
        detections = observation["detections"]
        names = [None] * len(detections)
        if detections:
            boxes = np.array([detection["box"] for detection in detections], dtype=np.float32)
            boxes[:, 2:] += boxes[:, :2]
            scores = np.array([detection["score"] for detection in detections], dtype=np.float32)
            seen = Detections(xyxy=boxes, confidence=scores, data={"index": np.arange(len(detections))})
        else:
            seen = Detections.empty()
            seen.confidence = np.empty(0, dtype=np.float32)
        tracked = self.tracker.update_with_detections(seen)
        changed = []
        if len(tracked):
            for index, number in zip(tracked.data["index"].tolist(), tracked.tracker_id.tolist()):
                track = self.note(number, index, observation, detections[index], captured_at)
                names[index] = track["_id"]
                changed.append(track)
        return names, changed

    def note(self, number, index, observation, detection, captured_at):
        track = self.tracks.get(number)
        if track is None:
            device, camera, epoch, _ = observation["id"].split("/")
            track = self.tracks[number] = {
                "_id": f"{observation['id']}#{index}",
                "device": device,
                "camera": camera,
                "epoch": epoch,
                "class": detection["class"],
                "first_seen": captured_at,
                "first_mono_us": observation["mono_us"],
                "first_observation": observation["id"],
                "observations": 0,
                "best_score": 0.0,
                "state": "active",
            }
            while len(self.tracks) > 100:  # Of these most have ended long ago.
                self.tracks.popitem(last=False)
        track["last_seen"] = captured_at
        track["last_mono_us"] = observation["mono_us"]
        track["last_observation"] = observation["id"]
        track["last_box"] = detection["box"]
        track["observations"] += 1
        track["best_score"] = max(track["best_score"], detection["score"])
        return track


class Centre:
    def __init__(self, options):
        concern = pymongo.WriteConcern(w="majority", j=True)
        with open(options.mongodb_uri_file) as file:
            database = pymongo.MongoClient(file.read().strip()).get_database(options.database, write_concern=concern)
        self.observations, self.tracks = database["observations"], database["tracks"]
        self.fps = options.fps
        self.cameras = {}
        self.writer = concurrent.futures.ThreadPoolExecutor(1)
        self.written = None
        self.consumer = confluent_kafka.Consumer({
            "bootstrap.servers": options.brokers,
            "security.protocol": "ssl",
            "ssl.ca.location": options.ca,
            "ssl.certificate.location": options.certificate,
            "ssl.key.location": options.key,
            "group.id": options.group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "queued.max.messages.kbytes": 65536,
        })
        self.consumer.subscribe([f"{options.topic_prefix}.observations"])
        self.ends = False

    def run(self):
        while not self.ends:
            messages = self.consumer.consume(BATCH, WAIT_S)
            if messages:
                self.take(messages)
        self.wait_for_write()
        self.consumer.close()

    def take(self, messages):
        stored_at = datetime.datetime.fromtimestamp(time.time(), datetime.UTC)
        observations, changed, offsets = [], {}, {}
        for message in messages:
            if message.error():
                raise confluent_kafka.KafkaException(message.error())
            place = (message.topic(), message.partition())
            offsets[place] = message.offset() + 1
            headers = dict(message.headers())
            if headers["picket-kind"] != b"observation":
                continue
            value = message.value()
            observation = orjson.loads(value)
            captured_at = datetime.datetime.fromisoformat(observation["captured_at"][:26].rstrip("Z") + "+00:00")
            names, tracks = self.camera(message.key()).follow(observation, captured_at)
            broker_time = datetime.datetime.fromtimestamp(message.timestamp()[1] / 1000, datetime.UTC)
            ingest = {
                "topic": message.topic(),
                "partition": message.partition(),
                "offset": message.offset(),
                "broker_time": broker_time,
                "stored_at": stored_at,
                "expire_at": broker_time + KEPT,
            }
            document = self.document(observation, names, captured_at, hashlib.sha256(value).hexdigest(), ingest)
            observations.append(pymongo.UpdateOne({"_id": document.pop("_id")}, {"$setOnInsert": document}, True))
            for track in tracks:
                changed[track["_id"]] = track
                track["ingest"] = ingest
        tracks = [pymongo.ReplaceOne({"_id": name}, track.copy(), True) for name, track in changed.items()]
        self.wait_for_write()
        offsets = [confluent_kafka.TopicPartition(*place, offset) for place, offset in offsets.items()]
        self.written = self.writer.submit(self.write, observations, tracks, offsets)

    def camera(self, key):
        camera = self.cameras.get(key)
        if camera is None:
            camera = self.cameras[key] = Camera(self.fps)
        return camera

    @staticmethod
    def document(observation, names, captured_at, digest, ingest):
        device, camera, epoch, seq = observation["id"].split("/")
        for detection, name in zip(observation["detections"], names):
            detection["track"] = name
        return {
            "_id": observation["id"],
            "kind": "observation",
            "device": device,
            "camera": camera,
            "epoch": epoch,
            "seq": int(seq),
            "captured_at": captured_at,
            "captured_ns": int(captured_at.timestamp() * 1_000_000) * 1000,
            "mono_us": observation["mono_us"],
            "clock": observation["clock"],
            "frame_width": observation["frame_width"],
            "frame_height": observation["frame_height"],
            "detector": observation["detector"]["name"],
            "model_sha256": observation["detector"]["model_sha256"],
            "motion_score": observation["motion_score"],
            "frame": observation["frame"],
            "detections": observation["detections"],
            "late": False,
            "final": True,
            "digest": digest,
            "ingest": ingest,
        }

    def write(self, observations, tracks, offsets):
        if observations:
            self.observations.bulk_write(observations, ordered=False)
        if tracks:
            self.tracks.bulk_write(tracks, ordered=False)
        self.consumer.commit(offsets=offsets, asynchronous=False)

    def wait_for_write(self):
        if self.written:
            self.written.result()
            self.written = None


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    for name in ("brokers", "ca", "certificate", "key", "topic-prefix", "group", "mongodb-uri-file", "database"):
        arguments.add_argument(f"--{name}", required=True)
    arguments.add_argument("--fps", type=float, required=True, help="of each camera")
    centre = Centre(arguments.parse_args())

    def end(*_):
        centre.ends = True

    signal.signal(signal.SIGTERM, end)
    centre.run()


if __name__ == "__main__":
    main()
