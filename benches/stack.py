"""The real Kafka that the benchmarks send to: started, with topics, and asked for what came."""

import datetime
import json
import pathlib
import subprocess
import tomllib
from dataclasses import dataclass

import confluent_kafka
from confluent_kafka import admin

KINDS = ("observations", "frames", "status")
PARTITIONS = 4
LIMIT_S = 30


@dataclass
class Arrived:
    """One message: the broker's clock, what the header `picket-kind` says (None of the script's), and
    how many frames a record of skipped or dropped ones stands for."""

    at_ms: int
    kind: str | None
    latency_ms: float | None
    frames: int


class Stack:
    def __init__(self, program, folder, topics=True):
        self.program, self.folder = program, folder
        subprocess.run(
            [program, "up", "--dir", folder, "--device", "bench"], check=True, stdout=subprocess.DEVNULL
        )
        self.settings = tomllib.loads((pathlib.Path(folder) / "settings.toml").read_text())
        self.brokers = self.settings["kafka"]["bootstrap"]
        self.prefix = self.settings["kafka"]["topic_prefix"]
        if topics:
            self.make_topics()

    def stop(self):
        subprocess.run([self.program, "down", "--dir", self.folder], check=True, stdout=subprocess.DEVNULL)

    def device(self, name):
        added = subprocess.run(
            [self.program, "add-device", name, "--dir", self.folder], check=True, capture_output=True, text=True
        )
        return tomllib.loads(added.stdout)

    def client(self):
        who = self.settings["admin"]
        return {
            "bootstrap.servers": self.brokers,
            "security.protocol": "ssl",
            "ssl.ca.location": who["ca"],
            "ssl.certificate.location": who["certificate"],
            "ssl.key.location": who["key"],
        }

    def topics(self):
        return [f"{self.prefix}.{kind}" for kind in KINDS]

    def make_topics(self):
        client = admin.AdminClient(self.client())
        config = {"message.timestamp.type": "LogAppendTime", "max.message.bytes": str(4 * 1024 * 1024 + 65536)}
        wanted = [admin.NewTopic(topic, PARTITIONS, 1, config=config) for topic in self.topics()]
        for topic, made in client.create_topics(wanted).items():
            try:
                made.result(LIMIT_S)
            except confluent_kafka.KafkaException as error:
                if error.args[0].code() != confluent_kafka.KafkaError.TOPIC_ALREADY_EXISTS:
                    raise SystemExit(f"topic {topic} cannot be made: {error}") from error

    def consumer(self):
        settings = self.client() | {"group.id": "picket-bench-reader", "enable.auto.commit": False}
        return confluent_kafka.Consumer(settings)

    def ends(self):
        """Where each partition ends now: what comes later is news."""
        consumer = self.consumer()
        ends = {}
        for topic in self.topics():
            for partition in range(PARTITIONS):
                place = confluent_kafka.TopicPartition(topic, partition)
                ends[topic, partition] = consumer.get_watermark_offsets(place, LIMIT_S)[1]
        consumer.close()
        return ends

    def since(self, before, keys):
        """By topic's kind: what arrived of these keys, in the broker's order of time."""
        arrived = {kind: [] for kind in KINDS}
        now = self.ends()
        places = [
            confluent_kafka.TopicPartition(topic, partition, offset)
            for (topic, partition), offset in before.items()
            if now[topic, partition] > offset
        ]
        wanted = sum(now[place.topic, place.partition] - place.offset for place in places)
        consumer = self.consumer()
        consumer.assign(places)
        for position in range(wanted):
            message = consumer.poll(LIMIT_S)
            if message is None or message.error():
                raise SystemExit(f"{position} of {wanted} messages could be read back: {message and message.error()}")
            if message.key().decode() in keys:
                kind = message.topic().rsplit(".", 1)[1]
                arrived[kind].append(self.read(message))
        consumer.close()
        for messages in arrived.values():
            messages.sort(key=lambda message: message.at_ms)
        return arrived

    @staticmethod
    def read(message):
        headers = {name: value.decode() for name, value in message.headers() or []}
        at_ms, kind = message.timestamp()[1], headers.get("picket-kind")
        captured_at = headers.get("picket-captured-at")
        latency_ms = at_ms - epoch_ms(captured_at) if captured_at else None
        frames = 1
        if kind in ("skip", "gap"):
            record = json.loads(message.value())
            frames = record.get("count", record["last"] - record["first"] + 1)
        return Arrived(at_ms, kind, latency_ms, frames)


def epoch_ms(rfc3339):
    """Milliseconds since 1970; Python 3.11 takes no more than six digits of a second."""
    head, _, fraction = rfc3339.removesuffix("Z").partition(".")
    whole = datetime.datetime.fromisoformat(head + "+00:00").timestamp()
    return 1000 * (whole + float(f"0.{fraction or 0}"))
