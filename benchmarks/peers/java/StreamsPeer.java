import java.util.Map;
import java.util.Properties;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.Record;

/** Kafka Streams: BROKER TOPIC GROUP DIRECTORY WARM GOAL. Counts raw records, commits. */
public final class StreamsPeer {
    private static final int MIB = 1 << 20;

    public static void main(String[] given) throws Exception {
        var meter = new Meter(Long.parseLong(given[4]), Long.parseLong(given[5]));
        var settings = new Properties();
        settings.putAll(Map.of(
            "bootstrap.servers", given[0],
            "application.id", given[2],
            "state.dir", given[3],
            "default.key.serde", Serdes.ByteArraySerde.class,
            "default.value.serde", Serdes.ByteArraySerde.class,
            "num.stream.threads", Runtime.getRuntime().availableProcessors(),
            "commit.interval.ms", 1000));
        settings.putAll(Map.of(
            "auto.offset.reset", "earliest",
            "consumer.max.poll.records", 10_000,
            "consumer.max.partition.fetch.bytes", 4 * MIB,
            "consumer.receive.buffer.bytes", -1,
            "buffered.records.per.partition", 10_000));
        var builder = new StreamsBuilder();
        builder.<byte[], byte[]>stream(given[1]).process(() -> new Count(meter));
        try (var streams = new KafkaStreams(builder.build(), settings)) {
            streams.start();
            meter.await();
        }
    }

    /** Tells the meter of every hundredth record, so that it costs Kafka Streams nothing. */
    private static final class Count implements Processor<byte[], byte[], Void, Void> {
        private static final int TOGETHER = 100;
        private final Meter meter;
        private int untold;

        Count(Meter meter) {
            this.meter = meter;
        }

        @Override
        public void process(Record<byte[], byte[]> record) {
            if (++untold == TOGETHER) {
                meter.add(untold);
                untold = 0;
            }
        }
    }
}
