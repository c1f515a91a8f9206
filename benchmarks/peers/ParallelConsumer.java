import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.confluent.parallelconsumer.ParallelConsumerOptions;
import io.confluent.parallelconsumer.ParallelConsumerOptions.CommitMode;
import io.confluent.parallelconsumer.ParallelConsumerOptions.ProcessingOrder;
import io.confluent.parallelconsumer.ParallelStreamProcessor;
import java.lang.management.ManagementFactory;
import java.lang.management.ThreadMXBean;
import java.nio.ByteOrder;
import java.nio.MappedByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.time.Duration;
import java.util.List;
import java.util.Properties;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/** Confluent Parallel Consumer as a peer: BOOTSTRAP TOPIC GROUP EFFECT BODY SLOTS ORDER; see bodies.py and effect.py. */
public class ParallelConsumer {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final ThreadMXBean THREADS = ManagementFactory.getThreadMXBean();

    public static void main(String[] given) throws Exception {
        MappedByteBuffer effect;
        try (var file = FileChannel.open(Path.of(given[3]), StandardOpenOption.READ, StandardOpenOption.WRITE)) {
            effect = file.map(FileChannel.MapMode.READ_WRITE, 0, file.size());
        }
        effect.order(ByteOrder.nativeOrder());
        int tasks = effect.capacity() / 9;

        var settings = new Properties();
        settings.put("bootstrap.servers", given[0]);
        settings.put("group.id", given[2]);
        settings.put("enable.auto.commit", "false");
        settings.put("auto.offset.reset", "earliest");
        settings.put("session.timeout.ms", "6000"); // as the others: after a kill the group waits for it
        settings.put("heartbeat.interval.ms", "1000");
        var bytes = new ByteArrayDeserializer();
        var options = ParallelConsumerOptions.<byte[], byte[]>builder()
                .consumer(new KafkaConsumer<>(settings, bytes, bytes))
                .ordering(ProcessingOrder.valueOf(given[6]))
                .maxConcurrency(Integer.parseInt(given[5]))
                .commitMode(CommitMode.PERIODIC_CONSUMER_ASYNCHRONOUS)
                .commitInterval(Duration.ofSeconds(1))
                .build();
        var processor = ParallelStreamProcessor.createEosStreamProcessor(options);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            processor.closeDontDrainFirst();
            Runtime.getRuntime().halt(0); // a JVM that is ended by a signal says so in its exit code
        }));
        processor.subscribe(List.of(given[1]));
        processor.poll(context -> {
            try {
                JsonNode task = JSON.readTree(context.getSingleConsumerRecord().value());
                work(given[4], task.get("ms").asDouble());
                int n = task.get("n").asInt();
                if (given[4].equals("timed")) {
                    effect.putLong(tasks + n * 8, System.nanoTime());
                }
                effect.put(n, (byte) (effect.get(n) + 1));
            } catch (Exception error) {
                throw new IllegalStateException(error);
            }
        });
    }

    private static void work(String body, double ms) throws InterruptedException {
        if (body.equals("burn")) {
            long until = THREADS.getCurrentThreadCpuTime() + (long) (ms * 1e6);
            while (THREADS.getCurrentThreadCpuTime() < until) {
                Thread.onSpinWait();
            }
        } else if (ms > 0) {
            Thread.sleep((long) ms);
        }
    }
}
