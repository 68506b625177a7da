"""The centre on a stack of its own: its config, its topics, an empty database, and processes that are measured
from outside."""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import threading
import time

import confluent_kafka
import measure
import pymongo
import stack
from confluent_kafka import admin

PARTITIONS = 48
GROUP = "picket-aggregator"
LIMIT_S = 120
COLLECTIONS = ("observations", "tracks")


@contextlib.contextmanager
def started(options):
    """A stack and its centre, which end with it. The folder is new each time."""
    folder = options.cache.resolve() / "bench/centre"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    services = stack.Stack(str(options.stack_program), str(folder / "stack"), topics=False)
    try:
        load = os.getloadavg()[0]
        print(f"machine: {os.cpu_count()} cores, load {load:.1f} at the start", flush=True)
        centre = Centre(options, services, folder)
        centre.make_topics()
        yield centre
    finally:
        services.stop()


class Centre:
    def __init__(self, options, services, folder):
        self.program, self.stack, self.folder = str(options.aggregator), services, folder
        mongodb = services.settings["mongodb"]
        self.uri_file, self.name = mongodb["uri_file"], mongodb["database"]
        self.client = pymongo.MongoClient(pathlib.Path(self.uri_file).read_text().strip(), tz_aware=True)
        self.database = self.client[self.name]
        self.topics = [f"{services.prefix}.{kind}" for kind in (*stack.KINDS, "tracks", "dead-letter")]
        self.admin = admin.AdminClient(services.client())
        self.config = folder / "aggregator.toml"
        self.config.write_text(self.config_text())
        self.indexes = None

    def config_text(self):
        settings, who = self.stack.settings, self.stack.settings["aggregator"]
        mongodb = settings["mongodb"]
        hosts = mongodb["uri"].split("://")[1].split("/")[0].split(",")
        return f"""[consume]
brokers = [{quoted(self.stack.brokers)}]
topic_prefix = {quoted(self.stack.prefix)}
group = {quoted(GROUP)}
ca_file = {quoted(who["ca"])}
certificate_file = {quoted(who["certificate"])}
key_file = {quoted(who["key"])}

[store]
hosts = {quoted(hosts)}
replica_set = "picket"
database = {quoted(mongodb["database"])}
user = {quoted(mongodb["user"])}
password_file = {quoted(mongodb["password_file"])}
ca_file = {quoted(mongodb["ca"])}

[upsert]
images_directory = {quoted(str(self.folder / "images"))}

[web]
listen = "127.0.0.1:0"
"""

    def command(self):
        return [self.program, "run", "--config", str(self.config)]

    def make_topics(self):
        who = self.stack.settings["admin"]
        command = [self.program, "topics", "create", "--config", str(self.config), "--replicas", "1"]
        command += ["--partitions", str(PARTITIONS), "--certificate-file", who["certificate"]]
        subprocess.run([*command, "--key-file", who["key"]], check=True, stdout=subprocess.DEVNULL)

    def remake_topics(self):
        """Topics without a record."""
        for removed in self.admin.delete_topics(self.topics, operation_timeout=LIMIT_S).values():
            removed.result(LIMIT_S)
        wait(lambda: not set(self.topics) & set(self.admin.list_topics(timeout=LIMIT_S).topics), "topics to go")
        self.make_topics()

    def empty(self):
        """A database that holds nothing, with the collections and indexes that the aggregator makes."""
        if self.indexes is None:
            log = self.folder / "prepare.log"
            with Running(self.command(), log) as aggregator:
                # It reads when everything is made.
                wait(lambda: aggregator.expect_running() or "partitions assigned" in log.read_text(), "collections")
            self.indexes = {name: list(self.database[name].list_indexes()) for name in COLLECTIONS}
        self.client.drop_database(self.name)
        for name, indexes in self.indexes.items():
            models = []
            for index in indexes:
                index = {key: value for key, value in index.items() if key not in ("v", "ns")}
                models.append(pymongo.IndexModel(list(index.pop("key").items()), **index))
            self.database.create_collection(name)
            self.database[name].create_indexes([model for model in models if model.document["name"] != "_id_"])

    def unread(self, group, topic):
        """Records of a topic that a group has not said to be done with."""
        places = [confluent_kafka.TopicPartition(topic, number) for number in range(PARTITIONS)]
        settings = self.stack.client() | {"group.id": group, "enable.auto.commit": False}
        consumer = confluent_kafka.Consumer(settings)
        unread = 0
        for place in consumer.committed(places, LIMIT_S):
            low, high = consumer.get_watermark_offsets(place, LIMIT_S)
            unread += high - max(place.offset, low)
        consumer.close()
        return unread

    def server_cpu_s(self):
        """CPU that the parts of the stack have used: by the name of their program."""
        parent = int((self.folder / "stack/stack.pid").read_text())
        used = {}
        for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                head, tail = stat.read_text().rsplit(")", 1)
                fields = tail.split()
                if int(fields[1]) == parent:
                    used[head.split("(", 1)[1]] = (int(fields[11]) + int(fields[12])) * measure.TICK_S
        return used


class Running:
    """A program at work, sampled as `measure` has it, and told to end when the block ends."""

    def __init__(self, command, log):
        self.log = log
        self.measured = measure.Run(started_ms=time.time() * 1000)
        with open(log, "ab") as output:
            self.child = subprocess.Popen(
                [str(part) for part in command], stdout=output, stderr=output, stdin=subprocess.DEVNULL
            )
        self.ended = threading.Event()
        arguments = (self.child.pid, self.measured.samples, self.ended)
        self.sampler = threading.Thread(target=measure.sample, args=arguments)
        self.sampler.start()

    def expect_running(self):
        if self.child.poll() is not None:
            tail = "".join(open(self.log, errors="replace").readlines()[-15:])
            raise SystemExit(f"{self.child.args[0]} ended with {self.child.returncode}:\n{tail}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.terminate()
        try:
            self.child.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        self.ended.set()
        self.sampler.join()


def wait(condition, what, limit_s=LIMIT_S, every_s=0.02):
    until = time.monotonic() + limit_s
    while not (found := condition()):
        if time.monotonic() > until:
            raise SystemExit(f"waited {limit_s} s for {what}")
        time.sleep(every_s)
    return found


def quoted(value):
    return json.dumps(value)
