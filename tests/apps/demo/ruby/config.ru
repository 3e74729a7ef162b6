# frozen_string_literal: true

# The Rack demo of `make run`: what this process is, what the request brought, a form, a ticker.

require 'cgi'
require 'etc'
require 'rack'

# One event a second for a minute. When the visitor leaves, writing fails and `each` is left.
class Ticker
  SECONDS = 60

  def each
    1.upto(SECONDS) do |tick|
      yield "data: tick #{tick} of #{SECONDS} from process #{Process.pid} at #{Time.now.strftime('%H:%M:%S')}\n\n"
      sleep 1
    end
    yield "event: end\ndata: bye\n\n"
  end
end

# The single page; what a form sent is shown on it too.
class Page
  STARTED = Time.now

  def initialize(env, served)
    @env = env
    @served = served
  end

  def to_s
    <<~HTML
      <!doctype html>
      <html lang="en">
      <meta charset="utf-8">
      <meta name="viewport" content="width=device-width, initial-scale=1">
      <title>Ruby in Apache</title>
      <link rel="stylesheet" href="style.css">
      <body class="ruby">
      <header>
        <h1>Ruby in Apache</h1>
        <p>A Rack application, answered by process #{Process.pid}</p>
      </header>
      #{arrived}
      <section><h2>This process</h2>#{table(process)}</section>
      <section><h2>A form that posts</h2>
        <form method="post" action="form">
          <label>Your name <input name="name" placeholder="Ada"></label>
          <label>A message <textarea name="message" rows="3"></textarea></label>
          <button>Send</button>
        </form>
      </section>
      <section id="ticker"><h2>Server-sent events</h2>
        <button>Start</button> <button>Stop</button>
        <output></output>
        <p class="note">One event a second, for a minute. This process handles one request at a time, so the stream
        occupies it: other requests go to another process, which is started when none is free.</p>
      </section>
      <section><h2>This request</h2>
        <details><summary>#{strings(@env).size} variables</summary>#{table(strings(@env))}</details>
      </section>
      <section><h2>Environment of the process</h2>#{table(environment)}</section>
      <script src="ticker.js"></script>
    HTML
  end

  private

  def process
    {
      'Process' => Process.pid,
      'User' => "#{Etc.getpwuid(Process.uid)&.name} (#{Process.uid})",
      'Directory' => Dir.pwd,
      'Version' => "Ruby #{RUBY_VERSION}, Rack #{Rack.release}",
      'Started' => STARTED.strftime('%F %T'),
      'Requests so far' => @served
    }
  end

  def environment
    ENV.select { |name, _| name.match?(/PASSENGER|_ENV\z|\A(HOME|LANG|PATH|USER)\z/) }.sort.to_h
  end

  def strings(env)
    env.select { |name, value| value.is_a?(String) && !name.start_with?('rack.') }.sort.to_h
  end

  def arrived
    return '' unless @env['REQUEST_METHOD'] == 'POST'

    fields = Rack::Request.new(@env).POST
    "<section><h2>What arrived</h2>#{table('Type' => @env['CONTENT_TYPE'], 'Bytes' => @env['CONTENT_LENGTH'], **fields)}</section>"
  end

  def table(rows)
    cells = rows.map { |name, value| "<tr><th>#{text(name)}</th><td>#{text(value)}</td></tr>" }
    "<table>#{cells.join}</table>"
  end

  def text(value)
    CGI.escapeHTML(value.to_s.dup.force_encoding(Encoding::UTF_8).scrub('?'))
  end
end

served = 0
run(lambda do |env|
  served += 1
  case env['PATH_INFO']
  when '/', '/form'
    [200, { 'content-type' => 'text/html; charset=utf-8' }, [Page.new(env, served).to_s]]
  when '/events'
    [200, { 'content-type' => 'text/event-stream', 'cache-control' => 'no-cache' }, Ticker.new]
  else
    [404, { 'content-type' => 'text/plain' }, ["Nothing is here.\n"]]
  end
end)
