-- Calls of Segment's tracking API: one event a request, or batches of them, each event with a
-- message id that no other has. What happens is what the generated population does, in much the same
-- shares, and two of five users are of that population. Arguments: a word for this run, events of a
-- request, and the milliseconds that a connection rests before each.

local thread = 0

function setup(it)
  it:set("number", thread)
  thread = thread + 1
end

function init(arguments)
  run, size, rest, sent = arguments[1], tonumber(arguments[2]), tonumber(arguments[3]), 0
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
end

local SHARES = {
  { "view", 81 }, { "visit", 16 }, { "search", 10 }, { "email_sent", 8 }, { "cart", 4 },
  { "push_sent", 3 }, { "email_open", 2 }, { "checkout", 1 }, { "purchase", 1 }, { "push_open", 1 },
}
local names = {}
for _, share in ipairs(SHARES) do
  for _ = 1, share[2] do
    names[#names + 1] = share[1]
  end
end

local function event()
  sent = sent + 1
  local product = (sent * 7919 + number) % 100000
  return string.format(
    '{"type":"track","messageId":"%s-%d-%d","userId":"%d","event":"%s",'
      .. '"properties":{"product_id":%d,"price":%d.5,"platform":"ios"},"context":{"page":"/p/%d"}}',
    run, number, sent, 500000000 + sent * 31 % 1048576, names[sent * 37 % #names + 1], product,
    product % 300, product)
end

function request()
  if size == 1 then
    return wrk.format(nil, "/v1/track", nil, event())
  end
  local events = {}
  for place = 1, size do
    events[place] = event()
  end
  return wrk.format(nil, "/v1/batch", nil, '{"batch":[' .. table.concat(events, ",") .. "]}")
end

function delay()
  return rest
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    'FIGURES {"requests":%d,"refused":%d,"broken":%d,"seconds":%f,"p50_seconds":%f,"p99_seconds":%f}\n',
    summary.requests, errors.status, errors.connect + errors.read + errors.write + errors.timeout,
    summary.duration / 1e6, latency:percentile(50) / 1e6, latency:percentile(99) / 1e6))
end
