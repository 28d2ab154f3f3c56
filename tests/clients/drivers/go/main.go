// Reads a reply with net/http or donovanhide/eventsource, and prints the events as JSON. Argument: as for read.py.
// Time limits are the libraries' own.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"log"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/donovanhide/eventsource"
)

const maxTries = 50
const retryPause = 200 * time.Millisecond

type options struct {
	Library, Method, URL string
	Body                 json.RawMessage
}

// An event: id, name, data.
type event [3]string

func (e event) ends() bool {
	var line struct{ Done bool }
	return e[1] == "error" || json.Unmarshal([]byte(e[2]), &line) == nil && line.Done
}

func main() {
	var asked options
	if err := json.Unmarshal([]byte(os.Args[1]), &asked); err != nil {
		log.Fatal(err)
	}
	read := follow
	if asked.Library == "donovanhide/eventsource" {
		read = subscribe
	}
	events, err := read(asked)
	if err != nil {
		log.Fatal(err)
	}
	json.NewEncoder(os.Stdout).Encode(events)
}

// Read with net/http and a bufio.Reader (a bufio.Scanner would stop at a line of 64 KiB), following by hand.
func follow(asked options) (events []event, err error) {
	method, address, body := asked.Method, asked.URL, []byte(asked.Body)
	if method == "GET" {
		body = nil
	}
	for try := 0; try < maxTries; try++ {
		request, err := http.NewRequest(method, address, bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		if method == "POST" {
			request.Header.Set("Content-Type", "application/json")
		}
		if len(events) > 0 {
			request.Header.Set("Last-Event-ID", events[len(events)-1][0])
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			time.Sleep(retryPause)
			continue
		}
		if response.StatusCode != 200 {
			return nil, errors.New(response.Status)
		}
		base, _ := url.Parse(address)
		location, err := base.Parse(response.Header.Get("Content-Location"))
		if err != nil {
			return nil, err
		}
		method, address, body = "GET", location.String(), nil
		events = readEvents(bufio.NewReader(response.Body), events)
		response.Body.Close()
		if len(events) > 0 && events[len(events)-1].ends() {
			return events, nil
		}
	}
	return nil, errors.New("the reply does not end")
}

func readEvents(reader *bufio.Reader, events []event) []event {
	current := event{"", "message", ""}
	for {
		line, err := reader.ReadString('\n')
		if err != nil {
			return events
		}
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch name {
		case "id":
			current[0] = value
		case "event":
			current[1] = value
		case "data":
			current[2] = value
		}
		if line == "\n" && current[2] != "" {
			events = append(events, current)
			if current.ends() {
				return events
			}
			current = event{"", "message", ""}
		}
	}
}

// Read with a library that reconnects by itself, with GET.
func subscribe(asked options) (events []event, err error) {
	stream, err := eventsource.Subscribe(asked.URL, "")
	if err != nil {
		return nil, err
	}
	for {
		select {
		case received := <-stream.Events:
			name := received.Event()
			if name == "" {
				name = "message"
			}
			events = append(events, event{received.Id(), name, received.Data()})
			if events[len(events)-1].ends() {
				return events, nil // not stream.Close(): it may still be sending to its channels, and panics
			}
		case <-stream.Errors: // it reconnects
		}
	}
}
