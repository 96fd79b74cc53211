"""Reads a trace with the classes of Perfetto: perfetto_reads.py FILE. Prints tracks, slices and flows as JSON."""

import json
import sys

from google.protobuf import unknown_fields
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as protos

trace = protos.Trace()
with open(sys.argv[1], "rb") as file:
    trace.ParseFromString(file.read())

Event = protos.TrackEvent
tracks, open_slices, slices, begun, ended = {}, {}, [], {}, {}
clocks = 0
for packet in trace.packet:
    for message in (packet, packet.track_event, packet.track_descriptor, packet.clock_snapshot):
        assert len(unknown_fields.UnknownFieldSet(message)) == 0, message
    clocks += packet.HasField("clock_snapshot")
    if packet.HasField("track_descriptor"):
        track = packet.track_descriptor
        assert track.uuid not in tracks
        tracks[track.uuid] = (track.name, track.parent_uuid or None)
    if packet.HasField("track_event"):
        event = packet.track_event
        assert event.track_uuid in tracks, "an event before its track"
        if event.type == Event.TYPE_SLICE_BEGIN:
            open_slices.setdefault(event.track_uuid, []).append((packet.timestamp, event))
        elif event.type == Event.TYPE_SLICE_END:
            start, begin = open_slices[event.track_uuid].pop()
            assert packet.timestamp >= start
            path, at = [], event.track_uuid
            while at is not None:
                path.append(tracks[at][0])
                at = tracks[at][1]
            slices.append(
                {
                    "track": path[::-1],
                    "name": begin.name,
                    "category": begin.categories[0],
                    "start": start,
                    "length": packet.timestamp - start,
                    "annotations": len(begin.debug_annotations),
                }
            )
            for flow in begin.flow_ids:
                begun[flow] = begin.categories[0]
            for flow in begin.terminating_flow_ids:
                ended[flow] = begin.categories[0]
assert not any(open_slices.values()), "a slice without an end"
assert begun.keys() == ended.keys(), "a flow without an end"
print(
    json.dumps(
        {
            "clocks": clocks,
            "tracks": [name for name, _ in tracks.values()],
            "slices": slices,
            "flows": [[begun[flow], ended[flow]] for flow in sorted(begun)],
        }
    )
)
