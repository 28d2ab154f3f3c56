// Reads a reply with java.net.http or OkHttp, and prints the events as JSON. Arguments: library, method, URL, body (or "").
// Time limits are the libraries' own.

import java.io.IOException;
import java.io.PrintStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import okhttp3.MediaType;
import okhttp3.OkHttpClient;
import okhttp3.Request;
import okhttp3.RequestBody;
import okhttp3.Response;
import okio.BufferedSource;

public class Read {
    record Event(String id, String name, String data) {
        boolean ends() {
            return name.equals("error") || data.contains("\"done\":true");
        }

        String json() {
            return "[\"" + id + "\", \"" + name + "\", \"" + data.replace("\\", "\\\\").replace("\"", "\\\"") + "\"]";
        }
    }

    static final int MAX_TRIES = 50;
    static final int RETRY_PAUSE = 200; // milliseconds

    static final List<Event> events = new ArrayList<>();
    static String library, method, url, body;

    public static void main(String[] arguments) throws Exception {
        library = arguments[0];
        method = arguments[1];
        url = arguments[2];
        body = arguments[3];
        for (int tries = 0; tries < MAX_TRIES && !ended(); tries++) {
            try {
                if (library.equals("OkHttp")) readWithOkHttp();
                else readWithJavaNetHttp();
            } catch (IOException | java.io.UncheckedIOException error) {
                Thread.sleep(RETRY_PAUSE);
            }
        }
        if (!ended()) throw new IllegalStateException("the reply does not end");
        PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
        out.print("[" + String.join(",", events.stream().map(Event::json).toList()) + "]");
        out.flush();
        System.exit(0); // OkHttp's threads live on for a minute
    }

    static boolean ended() {
        return !events.isEmpty() && events.get(events.size() - 1).ends();
    }

    /** From here on the reply is followed. */
    static void located(String path) {
        method = "GET";
        url = URI.create(url).resolve(path).toString();
    }

    static void readWithOkHttp() throws IOException {
        Request.Builder request = new Request.Builder().url(url);
        if (method.equals("POST")) request.post(RequestBody.create(MediaType.get("application/json"), body));
        if (!events.isEmpty()) request.header("Last-Event-ID", events.get(events.size() - 1).id());
        try (Response response = new OkHttpClient().newCall(request.build()).execute()) {
            if (response.code() != 200) throw new IllegalStateException("status " + response.code());
            located(response.header("Content-Location"));
            BufferedSource source = response.body().source();
            parse(new Iterator<>() {
                String next;

                public boolean hasNext() {
                    try {
                        next = source.readUtf8Line();
                    } catch (IOException error) {
                        throw new java.io.UncheckedIOException(error);
                    }
                    return next != null;
                }

                public String next() {
                    return next;
                }
            });
        }
    }

    static void readWithJavaNetHttp() throws IOException, InterruptedException {
        HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(url));
        if (method.equals("POST")) {
            request.header("Content-Type", "application/json").POST(HttpRequest.BodyPublishers.ofString(body));
        }
        if (!events.isEmpty()) request.header("Last-Event-ID", events.get(events.size() - 1).id());
        HttpResponse<java.util.stream.Stream<String>> response =
            HttpClient.newHttpClient().send(request.build(), HttpResponse.BodyHandlers.ofLines());
        if (response.statusCode() != 200) throw new IllegalStateException("status " + response.statusCode());
        located(response.headers().firstValue("Content-Location").orElseThrow());
        try (var lines = response.body()) {
            parse(lines.iterator());
        }
    }

    static void parse(Iterator<String> lines) {
        String id = "", name = "message", data = null;
        while (!ended() && lines.hasNext()) {
            String line = lines.next();
            if (line.startsWith("id: ")) id = line.substring(4);
            else if (line.startsWith("event: ")) name = line.substring(7);
            else if (line.startsWith("data: ")) data = line.substring(6);
            else if (line.isEmpty() && data != null) {
                events.add(new Event(id, name, data));
                name = "message";
                data = null;
            }
        }
    }
}
