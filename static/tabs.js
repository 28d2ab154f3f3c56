// What the tabs of this browser tell each other: that a conversation has changed in the server.

const channel = "BroadcastChannel" in window ? new BroadcastChannel("chatterd") : null;

/** Let the other tabs know. @param {string} appID */
export function tellChange(appID) {
  channel?.postMessage({ appID });
}

/**
 * Hear of changes that other tabs make.
 *
 * @param {string} appID
 * @param {() => void} listener
 * @param {AbortSignal} signal ends it
 */
export function onChange(appID, listener, signal) {
  channel?.addEventListener("message", ({ data }) => data.appID === appID && listener(), { signal });
}
