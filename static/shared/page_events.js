// Events after which the page's data may be stale: another tab changed a conversation; the page or the network is back.

const channel = "BroadcastChannel" in window ? new BroadcastChannel("chatterd") : null;
const thisTab = new EventTarget();

/** Notify the other tabs of a changed conversation. @param {string} appID @param {boolean} includeThisTab */
export function broadcastChange(appID, includeThisTab = false) {
  channel?.postMessage({ appID });
  if (includeThisTab) thisTab.dispatchEvent(new MessageEvent("message", { data: { appID } }));
}

/**
 * Call `listener` when `broadcastChange` reports a change of the conversation.
 *
 * @param {string} appID
 * @param {() => void} listener
 * @param {AbortSignal} signal removes the listener
 */
export function onConversationChange(appID, listener, signal) {
  for (const source of [channel, thisTab]) {
    source?.addEventListener("message", ({ data }) => data.appID === appID && listener(), { signal });
  }
}

/**
 * Call `listener` when the page is focused, shown or restored, or the network returns.
 *
 * @param {() => void} listener
 * @param {AbortSignal} signal removes the listener
 */
export function onResume(listener, signal) {
  addEventListener("online", listener, { signal });
  addEventListener("focus", listener, { signal });
  addEventListener("pageshow", ({ persisted }) => persisted && listener(), { signal });
  document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && listener(), { signal });
}
