import com.fasterxml.jackson.databind.ObjectMapper;
import io.cloudevents.CloudEvent;
import io.cloudevents.core.builder.CloudEventBuilder;
import io.cloudevents.jackson.JsonFormat;
import io.cloudevents.kafka.KafkaMessageFactory;
import java.io.ByteArrayOutputStream;
import java.math.BigDecimal;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Instant;
import java.time.OffsetDateTime;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.avro.Conversions;
import org.apache.avro.Schema;
import org.apache.avro.data.TimeConversions;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericDatumWriter;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.io.BinaryEncoder;
import org.apache.avro.io.EncoderFactory;
import org.apache.avro.message.BinaryMessageEncoder;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Publishes the task `sale` in every format that Java people use, each once to be done and once to be refused.
 *
 * Arguments: bootstrap, topic, URL of a schema registry, file of the Avro schema of `sale`, file of the one of events.
 * Prints a line for each acknowledged record, in order: its format, its partition and its offset.
 */
public final class ForeignProducer {
    private static final ObjectMapper JSON = new ObjectMapper();

    private final String topic;
    private final String registry;
    private final Schema sale;
    private final Schema event;
    private final GenericData data = new GenericData();
    private final KafkaProducer<byte[], byte[]> producer;

    private ForeignProducer(String[] given) throws Exception {
        topic = given[1];
        registry = given[2];
        sale = new Schema.Parser().parse(Files.readString(Path.of(given[3])));
        event = new Schema.Parser().parse(Files.readString(Path.of(given[4])));
        data.addLogicalTypeConversion(new TimeConversions.TimestampMillisConversion());
        data.addLogicalTypeConversion(new Conversions.DecimalConversion());
        Properties properties = new Properties();
        properties.put("bootstrap.servers", given[0]);
        properties.put("compression.type", "gzip");
        producer = new KafkaProducer<>(properties, new ByteArraySerializer(), new ByteArraySerializer());
    }

    public static void main(String[] given) throws Exception {
        new ForeignProducer(given).publish();
    }

    private void publish() throws Exception {
        int schemaId = register();
        for (long n : new long[] {1, -1}) {
            send("json", json(n));
            send("single-object", avro(singleObject(n)));
            send("confluent", framed(schemaId, n));
            send("binary event", (ProducerRecord<byte[], byte[]>) message(n).writeBinary(event(n, "application/json", json(n).value())));
            send("event with JSON", structured(n, "application/json", json(n).value()));
            send("event with Avro", structured(n, "application/avro", singleObject(n)));
            send("event in Avro", avroEvent(n));
        }
        producer.close();
    }

    private void send(String format, ProducerRecord<byte[], byte[]> record) throws Exception {
        RecordMetadata place = producer.send(record).get();
        System.out.println(format + "\t" + place.partition() + "\t" + place.offset());
    }

    private int register() throws Exception {
        String body = JSON.writeValueAsString(Map.of("schema", sale.toString()));
        HttpRequest request = HttpRequest.newBuilder(URI.create(registry + "/subjects/" + topic + "-value/versions"))
            .header("Content-Type", "application/vnd.schemaregistry.v1+json")
            .POST(HttpRequest.BodyPublishers.ofString(body))
            .build();
        HttpResponse<String> answer = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
        return JSON.readTree(answer.body()).get("id").asInt();
    }

    /** Header names twice, without a value, with an empty one, and with bytes that are no text. */
    private ProducerRecord<byte[], byte[]> json(long n) throws Exception {
        Map<String, Object> arguments = new LinkedHashMap<>();
        arguments.put("n", n);
        arguments.put("price", "12.50");
        arguments.put("when", "2026-01-02T03:04:05.678Z");
        arguments.put("tags", List.of("a", "Zo\u00eb \ud83d\ude00"));
        ProducerRecord<byte[], byte[]> record = named(JSON.writeValueAsBytes(arguments));
        record.headers().add("twice", text("1")).add("twice", text("2")).add("nothing", null);
        record.headers().add("empty", new byte[0]).add("bytes", new byte[] {0, -1, '\r', '\n'});
        return record;
    }

    private GenericRecord value(long n) {
        GenericRecord value = new GenericData.Record(sale);
        value.put("n", n);
        value.put("price", new BigDecimal("12.50"));
        value.put("when", Instant.parse("2026-01-02T03:04:05.678Z"));
        value.put("tags", List.of("a", "Zo\u00eb \ud83d\ude00"));
        return value;
    }

    private byte[] singleObject(long n) throws Exception {
        ByteBuffer encoded = new BinaryMessageEncoder<GenericRecord>(data, sale).encode(value(n));
        byte[] bytes = new byte[encoded.remaining()];
        encoded.get(bytes);
        return bytes;
    }

    private byte[] body(Schema schema, GenericRecord value) throws Exception {
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        BinaryEncoder encoder = EncoderFactory.get().binaryEncoder(out, null);
        new GenericDatumWriter<GenericRecord>(schema, data).write(value, encoder);
        encoder.flush();
        return out.toByteArray();
    }

    /** As Confluent's KafkaAvroSerializer writes it, which has no headers. */
    private ProducerRecord<byte[], byte[]> framed(int schemaId, long n) throws Exception {
        byte[] body = body(sale, value(n));
        return named(ByteBuffer.allocate(5 + body.length).put((byte) 0).putInt(schemaId).put(body).array());
    }

    private ProducerRecord<byte[], byte[]> avro(byte[] value) {
        ProducerRecord<byte[], byte[]> record = named(value);
        record.headers().add("content-type", text("application/avro"));
        return record;
    }

    private CloudEvent event(long n, String contentType, byte[] value) {
        return CloudEventBuilder.v1()
            .withId("java/" + n)
            .withType("sale")
            .withSource(URI.create("/shop"))
            .withTime(OffsetDateTime.parse("2026-01-02T03:04:05Z"))
            .withExtension("myextension", "x")
            .withData(contentType, value)
            .build();
    }

    private io.cloudevents.core.message.MessageWriter<?, ProducerRecord<byte[], byte[]>> message(long n) {
        return KafkaMessageFactory.createWriter(topic, 0, key());
    }

    private ProducerRecord<byte[], byte[]> structured(long n, String contentType, byte[] value) {
        return message(n).writeStructured(event(n, contentType, value), new JsonFormat());
    }

    /** The Avro event format of CloudEvents, which their Java library does not write. */
    private ProducerRecord<byte[], byte[]> avroEvent(long n) throws Exception {
        GenericRecord made = new GenericData.Record(event);
        made.put("attribute", Map.of("specversion", "1.0", "id", "java/" + n, "type", "sale", "source", "/shop",
            "datacontenttype", "application/json", "anumber", 7, "aflag", true));
        made.put("data", ByteBuffer.wrap(json(n).value()));
        ProducerRecord<byte[], byte[]> record = new ProducerRecord<>(topic, 0, key(), body(event, made));
        record.headers().add("content-type", text("application/cloudevents+avro"));
        return record;
    }

    private ProducerRecord<byte[], byte[]> named(byte[] value) {
        ProducerRecord<byte[], byte[]> record = new ProducerRecord<>(topic, 0, key(), value);
        record.headers().add("ce_type", text("sale"));
        return record;
    }

    private static byte[] key() {
        return new byte[] {'k', 0, -1};
    }

    private static byte[] text(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }
}
