interface Shape { }
class Own { public static void main(String[] args) { } }
class Problem { // public class Other {
    static class Inner { String text = "}"; char quote = '"'; }
    public static void main(String[] args) { }
}
class Last { }
