-- What the edge does by itself: lets leases lapse, holds requests, and finds a server when a slot has none.
-- Loaded once (not per thread), so every function here runs under HAProxy's one Lua lock; none yields between
-- reading and writing, which makes each command of the control plane atomic.

local WEIGHTS, PREVIEWS, HOLDS = "weights.map", "previews.map", "holds.map"
local weights = Map.new(WEIGHTS, Map._str)
local previews = Map.new(PREVIEWS, Map._str)
local holds = Map.new(HOLDS, Map._str)
local leases = {} -- key -> { expires = epoch seconds, fallback = green's weight, lapsed = boolean }

local function now()
  local date = core.now()
  return date.sec + date.usec / 1000000
end

-- Leases stand as comments in the weights file, so that a split and its lease are one write on disk.
local file = io.open(WEIGHTS, "r")
if file then
  for line in file:lines() do
    local key, expires, fallback = line:match("^# lease (%S+) (%S+) (%d+)$")
    if key then
      leases[key] = { expires = tonumber(expires) or 0, fallback = fallback, lapsed = false }
    end
  end
  file:close()
end

local function lapse(key, lease)
  core.set_map(WEIGHTS, key, lease.fallback)
  lease.lapsed = true
end

local function sweep()
  for key, lease in pairs(leases) do
    if not lease.lapsed and lease.expires <= now() then
      lapse(key, lease)
    end
  end
end

core.register_init(function() pcall(sweep) end) -- a lease that ran out while the edge was down never takes effect

core.register_task(function()
  while true do
    pcall(sweep)
    core.msleep(250)
  end
end)

core.register_cli({ "crossfade", "split" }, "", function(applet, _, _, key, green, expires, fallback)
  if expires == "-" then
    leases[key] = nil
  else
    leases[key] = { expires = tonumber(expires), fallback = fallback, lapsed = false }
  end
  core.set_map(WEIGHTS, key, green)
  applet:send("done\n")
end)

core.register_cli({ "crossfade", "renew" }, "", function(applet, _, _, key, expires, fallback)
  local lease = leases[key]
  if lease and not lease.lapsed and lease.expires <= now() then
    lapse(key, lease)
  end
  if not lease then
    applet:send("none\n")
  elseif lease.lapsed then
    applet:send("lapsed\n")
  else
    lease.expires, lease.fallback = tonumber(expires), fallback
    applet:send("done\n")
  end
end)

core.register_cli({ "crossfade", "state" }, "", function(applet, _, _, key)
  local lease = leases[key]
  local word = "none"
  if lease then
    if not lease.lapsed and lease.expires <= now() then
      lapse(key, lease)
    end
    word = lease.lapsed and "lapsed" or "leased"
  end
  applet:send(string.format("%s %s\n", weights:lookup(key) or "-", word))
end)

core.register_cli({ "crossfade", "preview" }, "", function(applet, _, _, key, value)
  core.set_map(PREVIEWS, key, value)
  applet:send("done\n")
end)

core.register_cli({ "crossfade", "unpreview" }, "", function(applet, _, _, key)
  core.del_map(PREVIEWS, key)
  applet:send("done\n")
end)

core.register_cli({ "crossfade", "hold" }, "", function(applet, _, _, key, deadline)
  if deadline == "0" then
    core.del_map(HOLDS, key)
  else
    core.set_map(HOLDS, key, deadline)
  end
  applet:send("done\n")
end)

-- Business events that applications tell in a response header: sums by pool and name, for whoever reads counts.
local MOST_EVENTS, MOST_NAMES = 8, 50
local tallies = {} -- pool -> name -> { n, sum, sum of squares }
local names = {} -- pool -> how many
local refused = 0

local function count(pool, name, value)
  local known = tallies[pool] or {}
  tallies[pool] = known
  local tally = known[name]
  if not tally then
    if (names[pool] or 0) >= MOST_NAMES then
      refused = refused + 1
      return
    end
    names[pool] = (names[pool] or 0) + 1
    tally = { 0, 0.0, 0.0 }
    known[name] = tally
  end
  tally[1], tally[2], tally[3] = tally[1] + 1, tally[2] + value, tally[3] + value * value
end

core.register_action("events", { "http-res" }, function(txn, pool)
  if (txn:get_var("txn.slot") or "") ~= "" then
    return -- a preview: the control plane's own question
  end
  local said = txn.http:res_get_headers()["x-crossfade-event"] or {}
  local seen = 0
  for _, line in pairs(said) do
    for item in (#line <= 2000 and line or ""):gmatch("[^,]+") do
      local name, rest = item:match("^%s*([a-z][a-z0-9_.-]*)%s*(.-)%s*$")
      local value = rest == "" and 1 or tonumber((rest or ""):match("^=%s*(-?%d+%.?%d*)$"))
      seen = seen + 1
      if name and #name <= 40 and value and math.abs(value) <= 1e12 and seen <= MOST_EVENTS then
        count(pool, name, value)
      else
        refused = refused + 1
      end
    end
  end
end, 1)

core.register_cli({ "crossfade", "events" }, "", function(applet)
  local lines = { string.format("refused %d\n", refused) }
  for pool, known in pairs(tallies) do
    for name, tally in pairs(known) do
      lines[#lines + 1] = string.format("%s %s %d %.17g %.17g\n", pool, name, tally[1], tally[2], tally[3])
    end
  end
  applet:send(table.concat(lines))
end)

-- A request that names a preview's secret belongs to the preview's slot. Compared in a time that does not depend on
-- how much of it is right.
core.register_action("preview", { "http-req" }, function(txn, key)
  local slot, secret = (previews:lookup(key) or ""):match("^(%a+):(.+)$")
  local said = txn.f:req_fhdr("X-Crossfade-Preview") or ""
  if not slot or #secret < 16 or #said ~= #secret then
    return
  end
  local difference = 0
  for i = 1, #secret do
    difference = difference | (secret:byte(i) ~ said:byte(i))
  end
  if difference == 0 then
    txn:set_var("txn.slot", slot)
  end
end, 1)

-- Waits while the environment is held; ends the hold when its time is over, whoever notices first.
core.register_action("hold", { "http-req" }, function(_, key)
  while true do
    local deadline = tonumber(holds:lookup(key) or "")
    if not deadline then
      return
    end
    if deadline <= now() then
      core.del_map(HOLDS, key)
      return
    end
    core.msleep(5)
  end
end, 1)

-- A request whose slot has no usable server comes here, over the edge's own socket. It goes to the other slot
-- when that one has a server; else it waits a little for one to come back. A previewed request stays with its slot.
-- The slot itself is looked at first: it may be alive here while a worker that a reload replaced knows it as dead.
core.register_action("elsewhere", { "http-req" }, function(txn)
  local from = txn:get_var("txn.from") or ""
  local hops, preview, patience, began, name = from:match("^(%d+):(%a*)%-?:(%d+):(%d*)%-?:(%S+)$")
  if not name then
    return
  end
  local key, slot = name:match("^(.+)%.(%a+)$")
  local other = key .. "." .. (slot == "blue" and "green" or "blue")
  if slot == "control" then
    -- Its requests are the baseline's: see Split.code.
    local code = tonumber(weights:lookup(key) or "") or 0
    local of_green = code > 10000 and (code // 10001) % 2 == 1 or code <= 10000 and code >= 5000
    other = key .. "." .. (of_green and "green" or "blue")
  end
  local previewed = preview ~= ""
  if not core.backends[other] or not core.backends[name] then
    return -- the environment was removed while a replaced worker still served it
  end
  local deadline = now() + math.min(5, tonumber(patience) / 2000)
  local to
  while not to do
    if core.backends[name]:get_srv_act() > 0 then
      to = name
    elseif not previewed and core.backends[other]:get_srv_act() > 0 then
      to = other
    elseif tonumber(hops) > 3 or now() >= deadline then
      to = key .. (previewed and "._shut" or "._nobody")
    else
      core.msleep(20)
    end
  end
  local elapsed = (now() - (tonumber(began) or 0) / 1000000) * 1000
  if began == "" or elapsed < 0 then
    elapsed = 0
  end
  -- This hop gives up before the one that waits for it does, so that a timeout is counted once.
  txn:set_var("txn.left", math.floor(math.max(50, tonumber(patience) - elapsed - 50)))
  txn:set_var("txn.hops", tonumber(hops) + 1)
  txn:set_var("txn.slot", preview)
  txn:set_var("txn.patience", tonumber(patience))
  txn:set_var("txn.to", to)
end)
