// What the tabs of this browser tell each other: that a conversation has changed in the server.

const channel = "BroadcastChannel" in window ? new BroadcastChannel("chatterd") : null;
const here = new EventTarget();

/** Let the other tabs know. @param {string} appID @param {boolean} alsoHere whether this one does not know it either */
export function tellChange(appID, alsoHere = false) {
  channel?.postMessage({ appID });
  if (alsoHere) here.dispatchEvent(new MessageEvent("message", { data: { appID } }));
}

/**
 * Hear of changes that other tabs make, or this one behind the page's back.
 *
 * @param {string} appID
 * @param {() => void} listener
 * @param {AbortSignal} signal ends it
 */
export function onChange(appID, listener, signal) {
  for (const source of [channel, here]) {
    source?.addEventListener("message", ({ data }) => data.appID === appID && listener(), { signal });
  }
}

/** @param {() => void} listener @param {AbortSignal} signal ends it */
export function onReturn(listener, signal) {
  addEventListener("online", listener, { signal });
  addEventListener("focus", listener, { signal });
  addEventListener("pageshow", ({ persisted }) => persisted && listener(), { signal });
  document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && listener(), { signal });
}
