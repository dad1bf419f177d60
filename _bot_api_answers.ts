/**
 * Plausible answers of a Bot API server to all methods but getUpdates.
 * @module
 */
import type { UserFromGetMe } from "./deps.ts";

/** What a failed call answers. */
export class ApiFailure extends Error {
  constructor(
    readonly status: number,
    description: string,
    readonly retryAfter?: number,
  ) {
    super(description);
  }

  toJSON(): unknown {
    return {
      ok: false,
      error_code: this.status,
      description: this.message,
      ...(this.retryAfter === undefined
        ? {}
        : { parameters: { retry_after: this.retryAfter } }),
    };
  }
}

/** A chat as the server describes it, its type told by the sign of its id. */
// deno-lint-ignore no-explicit-any
export function chatOf(chatId: unknown): any {
  if (typeof chatId === "string" && /^@\w+$/.test(chatId)) {
    const username = chatId.slice(1);
    let hash = 0;
    for (const c of username) hash = (hash * 31 + c.charCodeAt(0)) % 1e9;
    const id = -1_001_000_000_000 - hash;
    return { id, type: "supergroup", title: username, username };
  }
  const id = Number(chatId);
  if (!Number.isSafeInteger(id) || id === 0 || chatId === "") {
    throw new ApiFailure(400, "Bad Request: chat not found");
  }
  if (id > 0) return { id, type: "private", first_name: `User ${id}` };
  const type = id < -1_000_000_000_000 ? "supergroup" : "group";
  return { id, type, title: `Chat ${-id}` };
}

/** Says what a method other than getUpdates results in. Throws an `ApiFailure`. */
export class Answers {
  #messageId = 0;

  constructor(readonly bot: UserFromGetMe) {}

  nextMessageId(): number {
    return ++this.#messageId;
  }

  /** `sent` hears of each new message. */
  result(
    method: string,
    params: Record<string, unknown>,
    sent: (message: unknown) => void,
  ): unknown {
    if (Object.hasOwn(FIXED, method)) return FIXED[method](params, this.bot);
    const [, verb] = /^(send|forward|copy|edit|stop)[A-Z]/.exec(method) ?? [];
    if (verb === undefined || NO_MESSAGE.test(method)) return true;
    if (verb === "edit" || verb === "stop") {
      if (params.inline_message_id !== undefined) return true;
      const message = this.#message(method, params, Number(params.message_id));
      return { ...message, edit_date: message.date };
    }
    const isList = method === "sendMediaGroup" || method.endsWith("Messages");
    const parts = isList ? params.media ?? params.message_ids : [undefined];
    if (!Array.isArray(parts)) throw new ApiFailure(400, EMPTY_LIST);
    const answers = parts.map((part) => {
      const own = typeof part === "object" ? { ...params, ...part } : params;
      const message = this.#message(method, own, this.nextMessageId());
      sent(message);
      return verb === "copy" || method === "forwardMessages"
        ? { message_id: message.message_id }
        : message;
    });
    return isList ? answers : answers[0];
  }

  #message(method: string, params: Record<string, unknown>, id: number) {
    if (params.chat_id === undefined || params.chat_id === "") {
      throw new ApiFailure(400, "Bad Request: chat_id is empty");
    }
    if (/^(sendMessage|editMessageText)$/.test(method) && !params.text) {
      throw new ApiFailure(400, "Bad Request: message text is empty");
    }
    const { id: botId, is_bot, first_name, username } = this.bot;
    // deno-lint-ignore no-explicit-any
    const message: any = {
      message_id: id,
      from: { id: botId, is_bot, first_name, username },
      chat: chatOf(params.chat_id),
      date: now(),
    };
    for (const name of ["text", "caption", "entities", "caption_entities"]) {
      if (params[name] !== undefined) message[name] = params[name];
    }
    if (params.message_thread_id !== undefined) {
      message.message_thread_id = Number(params.message_thread_id);
    }
    const markup = params.reply_markup;
    if (typeof markup === "object" && markup && "inline_keyboard" in markup) {
      message.reply_markup = markup;
    }
    return Object.assign(message, content(method, params));
  }
}

const EMPTY_LIST = "Bad Request: list of messages is empty";
/** Methods named like the ones that send a message, which answer `true`. */
const NO_MESSAGE =
  /^(sendChatAction|sendGift|send\w*Draft|editForumTopic|edit\w*ForumTopic|editUserStarSubscription|editStory)$/;

// deno-lint-ignore no-explicit-any
type Params = Record<string, any>;

const FIXED: Record<string, (params: Params, bot: UserFromGetMe) => unknown> = {
  getMe: (_, bot) => bot,
  getChat: ({ chat_id }) => ({
    ...chatOf(chat_id),
    accent_color_id: 0,
    max_reaction_count: 11,
    accepted_gift_types: {},
  }),
  getChatMember: ({ user_id }) => ({
    status: "member",
    user: userOf(Number(user_id)),
  }),
  getChatAdministrators: () => [],
  getChatMemberCount: () => 2,
  getFile: ({ file_id }) => ({
    file_id: String(file_id),
    file_unique_id: `u${file_id}`,
    file_size: 1,
    file_path: `files/${file_id}`,
  }),
  getUserProfilePhotos: () => ({ total_count: 0, photos: [] }),
  getMyCommands: () => [],
  getMyName: (_, bot) => ({ name: bot.first_name }),
  getMyDescription: () => ({ description: "" }),
  getMyShortDescription: () => ({ short_description: "" }),
  getChatMenuButton: () => ({ type: "default" }),
  getForumTopicIconStickers: () => [],
  getCustomEmojiStickers: () => [],
  getGameHighScores: () => [],
  getUserChatBoosts: () => ({ boosts: [] }),
  getAvailableGifts: () => ({ gifts: [] }),
  getMyStarBalance: () => ({ amount: 0 }),
  getStarTransactions: () => ({ transactions: [] }),
  exportChatInviteLink: () => "https://t.me/+local",
  createInvoiceLink: () => "https://t.me/$local",
  createChatInviteLink: inviteLink,
  editChatInviteLink: inviteLink,
  revokeChatInviteLink: inviteLink,
  createForumTopic: ({ name }) => ({
    message_thread_id: 1,
    name,
    icon_color: 0x6fb9f0,
  }),
  answerWebAppQuery: () => ({ inline_message_id: "local" }),
  stopPoll: () => ({ ...poll({}), is_closed: true }),
};

/** A user as the server describes them. */
export function userOf(id: number): {
  id: number;
  is_bot: false;
  first_name: string;
} {
  return { id, is_bot: false, first_name: `User ${id}` };
}

/** The current time as Telegram writes it: seconds since 1970. */
export function now(): number {
  return Math.floor(Date.now() / 1000);
}

function inviteLink(params: Params, bot: UserFromGetMe): unknown {
  return {
    invite_link: params.invite_link ?? "https://t.me/+local",
    creator: bot,
    creates_join_request: false,
    is_primary: false,
    is_revoked: false,
  };
}

function poll(params: Params) {
  return {
    id: "1",
    question: params.question ?? "",
    options: [],
    total_voter_count: 0,
    is_closed: false,
    is_anonymous: true,
    type: params.type ?? "regular",
    allows_multiple_answers: false,
  };
}

function content(method: string, params: Params): Record<string, unknown> {
  const [, kind] = /^send([A-Z]\w*)$/.exec(method) ?? [];
  if (kind === undefined || kind === "Message") return {};
  const name = kind.replace(/(?!^)[A-Z]/g, "_$&").toLowerCase();
  const { latitude, longitude, title, address, phone_number, first_name } =
    params;
  const location = {
    latitude: Number(latitude),
    longitude: Number(longitude),
  };
  switch (name) {
    case "location":
      return { location };
    case "venue":
      return { location, venue: { location, title, address } };
    case "contact":
      return { contact: { phone_number, first_name } };
    case "dice":
      return { dice: { emoji: params.emoji ?? "🎲", value: 1 } };
    case "poll":
      return { poll: poll(params) };
  }
  // An album's parts name their file `media`.
  const kindOfFile = name === "media_group" ? String(params.type) : name;
  const given = params[kindOfFile] ?? params.media;
  if (given === undefined) return {};
  const isId = typeof given === "string" && !given.startsWith("attach://");
  const file_id = isId ? given : "uploaded";
  const size = { width: 1, height: 1, duration: 1, file_size: 1 };
  const file = { file_id, file_unique_id: `u${file_id}`, ...size };
  return { [kindOfFile]: kindOfFile === "photo" ? [file] : file };
}
