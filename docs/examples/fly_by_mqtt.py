"""On another machine: steer by a camera board's results over MQTT, and hover while they are too old or stay away."""

import json
import queue
import sys
import time

BUDGET_MS = 200
fastest = float("inf")


def command(result, heard_at):
    """What to do about a result that arrived at `heard_at`, seconds of this machine's own clock."""
    global fastest
    # The two machines' clocks differ by a constant; what the fastest result needed more than its age is the network.
    fastest = min(fastest, heard_at - result["captured_at"] - result["delivered_ms"] / 1000)
    age_ms = (heard_at - result["captured_at"] - fastest) * 1000
    if age_ms > BUDGET_MS or result["box"] is None:
        return f"hover ({age_ms:.0f} ms old)"
    x1, _, x2, _ = result["box"]
    return f"steer to x = {(x1 + x2) / 2:.0f} ({age_ms:.0f} ms old)"


if len(sys.argv) < 4:  # without HOST PORT PREFIX: one result, as it might arrive
    print(command({"captured_at": 7562.3, "delivered_ms": 14.6, "box": [212.4, 96.1, 301.9, 170.5]}, time.monotonic()))
else:
    import paho.mqtt.client as mqtt

    messages = queue.Queue()
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    client.on_connect = lambda *_: client.subscribe(f"{sys.argv[3]}/result")
    client.on_message = lambda _client, _data, message: messages.put((json.loads(message.payload), time.monotonic()))
    client.connect(sys.argv[1], int(sys.argv[2]))
    client.loop_start()
    while True:
        try:
            print(command(*messages.get(timeout=BUDGET_MS / 1000)))
        except queue.Empty:
            print("hover (nothing heard)")
