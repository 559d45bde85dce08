"""Spill: what lanes cannot hold in memory, on disk, as a cache of the log.

    append ─▶ stream of the lane ─▶ segment ─▶ segment ─▶ … ─▶ read ─▶ finish ─▶ unlink
                one writer                                 one reader

    <spill directory>/<app>/<slot>/LOCK                          this worker's, by fcntl
                                  /<lane>-<number>.fgs           a segment
                                  /quarantine/<lane>-<number>.fgs

    segment = header 4096 | frame | frame | … | footer | trailer 16
    frame   = header 448 | Arrow batches of raw Kafka bytes | zeros to a multiple of 64

`layout` draws every field. What holds:

- **The directory may be deleted at any instant.** Commits never depend on it: a record is
  finished when its agent is, and until then Kafka has it. What cannot be read back is named
  with its offsets (`FrameLost`) and fetched again.
- **Memory keeps a record until its whole frame is written.** Written is what the system took;
  nothing is synced. A killed process leaves its pages to the system. What a power cut tears,
  the checksums find.
- **Nothing is decoded before its checksum agrees**, and a header counts only at the very place
  that it names. A bad frame costs its own records.
- **A segment is written once, front to back.** After an error nothing is added to it; nothing
  is ever changed in place.
- **Starting never fails.** A damaged segment goes to quarantine, a torn tail is cut off, files
  of others and of later formats are left alone.
- **What was given up does not come back.** Frames carry the number of their run; after a start
  the newest run of a lane and partition counts. It is used again only for the same app, group,
  cluster and rule, and after a probe: the newest spilled record must be the log's.
- **A quota is a state**, and so is a full or broken disk (`quota`); neither is an exception
  that anybody has to guess the meaning of.

Left out, because a cache that may be deleted needs none of it:

- *A write-ahead log.* It would say which frames are finished. The lane watermarks in Kafka's
  commits say that already, and they survive the disk.
- *Checkpoints.* They would save a scan of the log that there is not. What a start has to know
  of a segment is in its footer; of the last one of each lane, in the headers of its frames.
- *Syncs.* They would keep what Kafka keeps anyway, at a sixth of the speed, and would bring
  the question of what a failed one means.
- *Tables of topics.* Each frame's header has its own, so no frame depends on another one.

The lock stays: two workers that write into one directory would delete each other's files. The
footer stays: without it a start on 100 GiB reads the headers of all frames, with it two pages
a segment. Room is reserved for a segment when it is opened, because that makes writing a third
faster and shows a full disk before a frame is begun; what is left of it is given back when the
segment is sealed or given up, and by the next start.
"""
