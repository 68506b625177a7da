"""Faces from a video to Kafka: the script that people write instead of an agent.

It reads the video with OpenCV, looks for faces with YuNet in ONNX Runtime, and sends an observation for
each frame that it looked at, and a JPEG for each in which it found somebody. There is no spool: while the
broker is away librdkafka's queue fills in memory, and then the script waits.

Chosen as somebody who knows these libraries would, each by measuring CPU time on this file:
- `grab` for the frames between two samples: it decodes without making BGR pixels of them.
- One thread for ONNX Runtime, as the agent has, and no spinning: with it a core burns for nothing.
- `cv2.setNumThreads(1)`: OpenCV's pool costs more than it gains on two cores beside decoder and model.
  FFmpeg inside OpenCV keeps its own threads.
- `INTER_LINEAR`, the default of `cv2.resize`, and `blobFromImage`, which is faster than NumPy's transpose.
- Arrays instead of loops where the model's outputs are decoded.
"""

import argparse
import datetime
import json
import time

import confluent_kafka
import cv2
import numpy as np
import onnxruntime

STRIDES = (8, 16, 32)
SCORE_THRESHOLD, NMS_IOU = 0.6, 0.3


class FaceDetector:
    def __init__(self, model, input_width):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name
        names = [f"{kind}_{stride}" for stride in STRIDES for kind in ("cls", "obj", "bbox", "kps")]
        self.outputs = names
        self.input_width = input_width

    def detect(self, frame):
        """Boxes, scores and landmarks in pixels of the frame."""
        height, width = frame.shape[:2]
        small_width = min(width, self.input_width)
        small_height = round(height * small_width / width)
        small = cv2.resize(frame, (small_width, small_height))
        small = cv2.copyMakeBorder(small, 0, -small_height % 32, 0, -small_width % 32, cv2.BORDER_CONSTANT)
        outputs = self.session.run(self.outputs, {self.input: cv2.dnn.blobFromImage(small)})
        boxes, scores, landmarks = self.decode(outputs, small.shape[1])
        kept = cv2.dnn.NMSBoxes(boxes, scores, SCORE_THRESHOLD, NMS_IOU)
        scale = np.array([width / small_width, height / small_height])
        return [(boxes[i] * np.tile(scale, 2), scores[i], landmarks[i] * scale) for i in kept]

    @staticmethod
    def decode(outputs, padded_width):
        boxes, scores, landmarks = [], [], []
        for position, stride in enumerate(STRIDES):
            cls, obj, box, points = (output[0] for output in outputs[4 * position : 4 * position + 4])
            score = np.sqrt(np.clip(cls[:, 0], 0, 1) * np.clip(obj[:, 0], 0, 1))
            cells = np.flatnonzero(score >= SCORE_THRESHOLD)
            corner = np.stack([cells % (padded_width // stride), cells // (padded_width // stride)], axis=1)
            size = np.exp(box[cells, 2:]) * stride
            boxes.append(np.hstack([(corner + box[cells, :2]) * stride - size / 2, size]))
            scores.append(score[cells])
            landmarks.append((points[cells].reshape(-1, 5, 2) + corner[:, None]) * stride)
        return np.concatenate(boxes), np.concatenate(scores), np.concatenate(landmarks)


def send(producer, topic, key, value, headers):
    while True:
        try:
            producer.produce(topic, key=key, value=value, headers=headers)
            return
        except BufferError:
            producer.poll(0.1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("video")
    parser.add_argument("--model", required=True)
    parser.add_argument("--input-width", type=int, default=320)
    parser.add_argument("--every", type=int, default=1, help="look at each n-th frame")
    parser.add_argument("--real-time", action="store_true", help="at the pace of the video")
    parser.add_argument("--quality", type=int, default=85)
    parser.add_argument("--brokers", required=True)
    parser.add_argument("--topic-prefix", default="picket")
    parser.add_argument("--device", required=True, help="name in the certificate")
    parser.add_argument("--camera", default="cam")
    parser.add_argument("--ca", required=True)
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--key", required=True)
    options = parser.parse_args()

    cv2.setNumThreads(1)
    detector = FaceDetector(options.model, options.input_width)
    producer = confluent_kafka.Producer({
        "bootstrap.servers": options.brokers,
        "security.protocol": "ssl",
        "ssl.ca.location": options.ca,
        "ssl.certificate.location": options.certificate,
        "ssl.key.location": options.key,
        "enable.idempotence": True,
        "message.max.bytes": 4 * 1024 * 1024,
    })  # fmt: skip
    key = f"{options.device}/{options.camera}"
    observations, frames = f"{options.topic_prefix}.observations", f"{options.topic_prefix}.frames"

    video = cv2.VideoCapture(options.video)
    if not video.isOpened():
        raise SystemExit(f"cannot open {options.video}")
    frame_s = 1 / video.get(cv2.CAP_PROP_FPS) if options.real_time else 0
    began, index = time.monotonic(), 0
    while video.grab():
        # As a camera would give them.
        time.sleep(max(0, began + index * frame_s - time.monotonic()))
        if index % options.every == 0:
            frame = video.retrieve()[1]
            found = detector.detect(frame)
            observation = {
                "camera": key,
                "seq": index,
                "captured_at": datetime.datetime.now(datetime.timezone.utc).isoformat(),
                "width": frame.shape[1],
                "height": frame.shape[0],
                "detections": [
                    {"box": box.tolist(), "score": float(score), "class": "face", "landmarks": points.tolist()}
                    for box, score, points in found
                ],
            }
            headers = {"picket-id": f"{key}/{index}"}
            send(producer, observations, key, json.dumps(observation).encode(), headers)
            if found:
                jpeg = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, options.quality])[1]
                send(producer, frames, key, jpeg.tobytes(), headers)
            producer.poll(0)
        index += 1
    producer.flush()


if __name__ == "__main__":
    main()
