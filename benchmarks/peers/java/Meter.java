import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.CountDownLatch;

/**
 * The rule that all peers share, as in flowguard/bench/meter.py, with one favour: what Java reads
 * while it still compiles does not count. Threads add to it; the goal ends the run.
 */
final class Meter {
    private final long warm;
    private final long goal;
    private final CountDownLatch over = new CountDownLatch(1);
    private long seen;
    private long first;
    private long beganNs;
    private long beganCpuNs;

    Meter(long warm, long goal) {
        this.warm = warm;
        this.goal = goal;
    }

    synchronized void add(long count) {
        seen += count;
        if (first == 0 && seen > warm) {
            first = seen;
            beganNs = System.nanoTime();
            beganCpuNs = cpuNs();
        } else if (seen >= goal && over.getCount() > 0) {
            System.out.printf(java.util.Locale.ROOT,
                "{\"records\": %d, \"seconds\": %.9f, \"cpu_seconds\": %.9f, \"peak_memory\": %d}%n",
                seen - first, (System.nanoTime() - beganNs) / 1e9, (cpuNs() - beganCpuNs) / 1e9, peakBytes());
            over.countDown();
        }
    }

    void await() throws InterruptedException {
        over.await();
    }

    private static long cpuNs() {
        var system = (com.sun.management.OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
        return system.getProcessCpuTime();
    }

    private static long peakBytes() {
        try (var lines = Files.lines(Path.of("/proc/self/status"))) {
            return lines.filter(line -> line.startsWith("VmHWM:"))
                .mapToLong(line -> Long.parseLong(line.replaceAll("\\D", "")) * 1024)
                .findFirst().orElse(0);
        } catch (IOException error) {
            return 0;
        }
    }
}
