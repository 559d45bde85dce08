import io.confluent.parallelconsumer.ParallelConsumerOptions;
import io.confluent.parallelconsumer.ParallelConsumerOptions.CommitMode;
import io.confluent.parallelconsumer.ParallelConsumerOptions.ProcessingOrder;
import io.confluent.parallelconsumer.ParallelStreamProcessor;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/** Confluent Parallel Consumer: BROKER TOPIC GROUP DIRECTORY WARM GOAL. Counts raw records, commits. */
public final class ParallelPeer {
    private static final int MIB = 1 << 20;

    public static void main(String[] given) throws Exception {
        var meter = new Meter(Long.parseLong(given[4]), Long.parseLong(given[5]));
        var consumer = new KafkaConsumer<byte[], byte[]>(Map.of(
            "bootstrap.servers", given[0],
            "group.id", given[2],
            "auto.offset.reset", "earliest",
            "enable.auto.commit", false,
            "max.poll.records", 10_000,
            "max.partition.fetch.bytes", 4 * MIB,
            "receive.buffer.bytes", -1,
            "key.deserializer", ByteArrayDeserializer.class,
            "value.deserializer", ByteArrayDeserializer.class));
        var options = ParallelConsumerOptions.<byte[], byte[]>builder()
            .consumer(consumer)
            .ordering(ProcessingOrder.UNORDERED)
            .commitMode(CommitMode.PERIODIC_CONSUMER_ASYNCHRONOUS)
            .maxConcurrency(Runtime.getRuntime().availableProcessors())
            .batchSize(Integer.getInteger("batch", 1000))
            .build();
        try (var processor = ParallelStreamProcessor.createEosStreamProcessor(options)) {
            processor.subscribe(List.of(given[1]));
            processor.poll(batch -> meter.add(batch.size()));
            meter.await();
            processor.closeDontDrainFirst();
        }
    }
}
